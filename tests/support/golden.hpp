#pragma once

// Reader of the recorded reference cases in tests/data: safetensors files of float64 and int64 tensors.
// Format: 8 bytes little-endian length of the header, the header as JSON, then the raw values.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace mox_test {

/// One tensor of a reference case, row-major.
template <class T>
struct golden_tensor {
    std::vector<std::size_t> shape;
    std::vector<T> values;
};

/// The tensors of each case that this program has read.
inline std::map<std::string, std::set<std::string>>& tensors_read() {
    static std::map<std::string, std::set<std::string>> read;
    return read;
}

/// A reference case: golden("ffn-swiglu").tensor("in.x").
class golden {
public:
    explicit golden(const std::string& name) : name_(name) {
        std::ifstream file(std::string(MOX_TEST_DATA) + "/" + name + ".safetensors", std::ios::binary);
        if (!file) throw std::runtime_error("golden " + name + ": cannot open the file");
        parse(std::vector<char>(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()));
    }
    /// From bytes in memory.
    golden(const std::string& name, std::vector<char> bytes) : name_(name) { parse(std::move(bytes)); }

    golden_tensor<double> tensor(const std::string& key) const { return read<double>(key, "F64"); }
    golden_tensor<std::int64_t> integers(const std::string& key) const {
        return read<std::int64_t>(key, "I64");
    }
    golden_tensor<std::int32_t> codes(const std::string& key) const { return read<std::int32_t>(key, "I32"); }
    /// Truth values as 0 and 1.
    golden_tensor<std::uint8_t> flags(const std::string& key) const {
        return read<std::uint8_t>(key, "BOOL");
    }
    const nlohmann::json& config() const noexcept { return config_; }
    bool has(const std::string& key) const { return key != "__metadata__" && header_.contains(key); }
    std::vector<std::string> keys() const {
        std::vector<std::string> all;
        for (const auto& item : header_.items()) {
            if (has(item.key())) all.push_back(item.key());
        }
        return all;
    }

private:
    void parse(std::vector<char> bytes) {
        if (bytes.size() < 8) fail("shorter than its length field");
        std::uint64_t length = 0;
        for (std::size_t i = 0; i < 8; ++i) {
            length |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
        }
        if (length > bytes.size() - 8) fail("the header is longer than the file");
        const auto begin = bytes.begin() + 8, end = begin + static_cast<std::ptrdiff_t>(length);
        header_ = nlohmann::json::parse(begin, end, nullptr, false);
        if (!header_.is_object()) fail("the header is not a JSON object");
        if (header_.contains("__metadata__") && header_["__metadata__"].contains("config")) {
            config_ = nlohmann::json::parse(header_["__metadata__"]["config"].get<std::string>());
        }
        data_.assign(end, bytes.end());
    }

    template <class T>
    golden_tensor<T> read(const std::string& key, const std::string& type) const {
        static_assert(sizeof(T) == 8 || sizeof(T) == 4 || sizeof(T) == 1);
        if (!has(key)) fail("there is no tensor " + key);
        const nlohmann::json& entry = header_.at(key);
        if (entry.at("dtype").get<std::string>() != type) fail(key + " is not of type " + type);
        golden_tensor<T> t;
        std::size_t size = 1;
        for (const auto& extent : entry.at("shape")) {
            t.shape.push_back(extent.get<std::size_t>());
            size *= t.shape.back();
        }
        const std::size_t from = entry.at("data_offsets").at(0).get<std::size_t>();
        const std::size_t to = entry.at("data_offsets").at(1).get<std::size_t>();
        if (from > to || to > data_.size()) fail(key + " lies outside the file");
        if (to - from != size * sizeof(T)) fail(key + " has another size than its shape");
        t.values.resize(size);
        tensors_read()[name_].insert(key);
        if (size > 0) std::memcpy(t.values.data(), data_.data() + from, size * sizeof(T));
        return t;
    }

    [[noreturn]] void fail(const std::string& what) const {
        throw std::runtime_error("golden " + name_ + ": " + what);
    }

    std::string name_;
    nlohmann::json header_;
    nlohmann::json config_;
    std::vector<char> data_;
};

/// What a case records and no test of this program has looked at, but for what is left out on purpose: ask at
/// the end of the test that should have.
inline std::vector<std::string> unread(const std::string& name,
                                       const std::set<std::string>& on_purpose = {}) {
    std::vector<std::string> left;
    for (const std::string& key : golden(name).keys()) {
        if (!tensors_read()[name].contains(key) && !on_purpose.contains(key)) left.push_back(key);
    }
    return left;
}
inline const std::vector<std::string> nothing;

/// Matrices of the files are [.., out, in]; the library's are [.., in, out].
inline std::vector<double> transposed(const golden_tensor<double>& t) {
    if (t.shape.size() < 2) throw std::runtime_error("golden: only matrices can be transposed");
    const std::size_t rows = t.shape[t.shape.size() - 2], cols = t.shape[t.shape.size() - 1];
    const std::size_t count = rows * cols == 0 ? 0 : t.values.size() / (rows * cols);
    std::vector<double> v(t.values.size());
    for (std::size_t m = 0; m < count; ++m) {
        for (std::size_t i = 0; i < rows; ++i) {
            for (std::size_t j = 0; j < cols; ++j) {
                v[(m * cols + j) * rows + i] = t.values[(m * rows + i) * cols + j];
            }
        }
    }
    return v;
}

/// Two stacks of matrices side by side, after transposing: [count, in, gate | up].
inline std::vector<double> gate_and_up(const golden_tensor<double>& gate, const golden_tensor<double>& up) {
    if (gate.shape != up.shape) throw std::runtime_error("golden: gate and up differ in shape");
    const std::vector<double> a = transposed(gate), b = transposed(up);
    const std::size_t cols = gate.shape[gate.shape.size() - 2];
    std::vector<double> v;
    v.reserve(a.size() + b.size());
    for (std::size_t row = 0; row < (cols == 0 ? 0 : a.size() / cols); ++row) {
        v.insert(v.end(), a.begin() + static_cast<std::ptrdiff_t>(row * cols),
                 a.begin() + static_cast<std::ptrdiff_t>((row + 1) * cols));
        v.insert(v.end(), b.begin() + static_cast<std::ptrdiff_t>(row * cols),
                 b.begin() + static_cast<std::ptrdiff_t>((row + 1) * cols));
    }
    return v;
}

}  // namespace mox_test
