# mox_add_multiarch(TARGET FUNCTION name HEADER file SOURCES file... [ARCHES level...] [LINK library...])
#
# Compiles SOURCES once per level and adds them to TARGET with a function `name` that returns the build that is
# best for the CPU at hand, chosen at its first call:
#   HEADER   declares the function at global scope; it returns a reference to a constant struct of function pointers
#   SOURCES  one of them fills the struct with MOX_VARIANT(name) = {...} (mox/simd/resolve.hpp)
#   ARCHES   of baseline avx2 avx512 avx512_bf16 (all); baseline is always built. ARM64 has one level, NEON.
#   LINK     what the sources need besides mox::mox
#
# Inline functions and templates of the C++ library, of xsimd and of Eigen have the same name in every build, and a
# linker keeps one of them for all, perhaps the one with instructions that the CPU lacks. Therefore every build is
# linked into one object of its own whose symbols are local but for the table, and constructors of its global objects
# run when it is chosen instead of before main. This needs GNU ld and objcopy; where they are missing, only the
# baseline is built, and a line says so.

set(mox_multiarch_dir ${CMAKE_CURRENT_LIST_DIR})

# The flags of a level. They must not allow more than the level of that name in simd/resolve.hpp asks of the CPU.
function(mox_multiarch_flags level out)
    set(flags_baseline -march=x86-64)
    set(flags_avx2 -march=x86-64-v3)
    set(flags_avx512 -march=x86-64-v4)
    set(flags_avx512_bf16 -march=x86-64-v4 -mavx512vnni -mavx512bf16)
    if(NOT DEFINED flags_${level})
        message(FATAL_ERROR "mox_add_multiarch: unknown level '${level}'; known are baseline avx2 avx512 avx512_bf16")
    endif()
    if(mox_multiarch_x86)
        # Tuned for no machine; no link-time code, which would be compiled after the symbols were made local.
        set(flags ${flags_${level}} -mtune=generic -fno-lto)
        if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
            # Unique symbols stay shared between all objects of a process, whatever objcopy says.
            list(APPEND flags -fno-gnu-unique)
        endif()
        set(${out} ${flags} PARENT_SCOPE)
    else()
        set(${out} "" PARENT_SCOPE)
    endif()
endfunction()

function(mox_add_multiarch target)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "FUNCTION;HEADER" "SOURCES;ARCHES;LINK")
    foreach(argument FUNCTION HEADER SOURCES)
        if(NOT arg_${argument})
            message(FATAL_ERROR "mox_add_multiarch: ${argument} is missing")
        endif()
    endforeach()
    if(arg_UNPARSED_ARGUMENTS)
        message(FATAL_ERROR "mox_add_multiarch: unknown arguments '${arg_UNPARSED_ARGUMENTS}'")
    endif()
    if(NOT DEFINED arg_ARCHES)
        set(arg_ARCHES baseline avx2 avx512 avx512_bf16)
    endif()
    find_program(MOX_GNU_LD NAMES ${CMAKE_LIBRARY_ARCHITECTURE}-ld.bfd ld.bfd DOC "GNU ld, for mox_add_multiarch")
    if(CMAKE_CROSSCOMPILING)
        set(ld ${CMAKE_LINKER})
    else()
        set(ld ${MOX_GNU_LD})
    endif()
    set(mox_multiarch_x86 FALSE)
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
        set(mox_multiarch_x86 TRUE)
    endif()
    set(levels ${arg_ARCHES})
    if(NOT mox_multiarch_x86 OR NOT ld OR NOT CMAKE_OBJCOPY OR NOT CMAKE_OBJDUMP)
        if(mox_multiarch_x86)
            message(STATUS "mox_add_multiarch: GNU ld, objcopy or objdump not found; ${target} is built for baseline only")
        endif()
        set(levels baseline)
    endif()
    # Best first; the baseline ends the chain.
    set(chain)
    foreach(level avx512_bf16 avx512 avx2)
        if(level IN_LIST levels)
            list(APPEND chain ${level})
        endif()
    endforeach()
    foreach(level ${arg_ARCHES} ${chain} baseline)
        mox_multiarch_flags(${level} flags)
    endforeach()

    set(folder ${CMAKE_CURRENT_BINARY_DIR}/${target}.multiarch/${arg_FUNCTION})
    set(declarations "")
    set(choice "")
    foreach(level ${chain} baseline)
        set(object ${target}_${arg_FUNCTION}_${level})
        mox_multiarch_flags(${level} flags)
        set(units)
        foreach(source ${arg_SOURCES})
            # A file of its own, because flags of a source come after those of everything it links.
            get_filename_component(path ${source} ABSOLUTE)
            get_filename_component(name ${source} NAME_WE)
            set(unit ${folder}/${level}/${name}.cpp)
            file(CONFIGURE OUTPUT ${unit} CONTENT "#define MOX_VARIANT_SUFFIX ${level}\n#include \"${path}\"\n")
            set_source_files_properties(${unit} PROPERTIES COMPILE_OPTIONS "${flags}")
            list(APPEND units ${unit})
        endforeach()
        add_library(${object} OBJECT ${units})
        target_link_libraries(${object} PRIVATE mox::mox ${arg_LINK})
        get_target_property(type ${target} TYPE)
        get_target_property(position_independent ${target} POSITION_INDEPENDENT_CODE)
        if(position_independent OR type MATCHES "SHARED|MODULE")
            set_target_properties(${object} PROPERTIES POSITION_INDEPENDENT_CODE ON)
        endif()
        if(chain)
            set(isolated ${folder}/${level}.o)
            add_custom_command(
                OUTPUT ${isolated}
                COMMAND ${CMAKE_COMMAND} -DLD=${ld} -DOBJCOPY=${CMAKE_OBJCOPY} -DOBJDUMP=${CMAKE_OBJDUMP}
                        -DOUT=${isolated} -DNAME=${arg_FUNCTION}_${level}
                        "-DOBJECTS=$<JOIN:$<TARGET_OBJECTS:${object}>,|>" -P ${mox_multiarch_dir}/mox_isolate.cmake
                DEPENDS ${object} $<TARGET_OBJECTS:${object}> ${mox_multiarch_dir}/mox_isolate.cmake
                COMMENT "Isolating ${arg_FUNCTION} for ${level}" VERBATIM)
            set_source_files_properties(${isolated} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
            target_sources(${target} PRIVATE ${isolated})
        else()
            target_sources(${target} PRIVATE $<TARGET_OBJECTS:${object}>)
        endif()
        set(name ${arg_FUNCTION}_${level})
        string(APPEND declarations "extern \"C\" const table mox_variant_${name};\n")
        set(chosen "return mox_variant_${name}")
        if(chain)
            string(APPEND declarations
                "extern \"C\" [[gnu::weak]] const constructor __start_mox_init_${name}[], __stop_mox_init_${name}[];\n")
            set(chosen "return chosen(mox_variant_${name}, __start_mox_init_${name}, __stop_mox_init_${name})")
        endif()
        if(NOT level STREQUAL "baseline")
            string(APPEND choice "    if (mox::simd::cpu_supports<mox::simd::level::${level}>())\n    ")
        endif()
        string(APPEND choice "    ${chosen};\n")
    endforeach()

    get_filename_component(header ${arg_HEADER} ABSOLUTE)
    file(CONFIGURE OUTPUT ${folder}/choice.cpp CONTENT
"// Written by mox_add_multiarch.
#include <type_traits>

#include <mox/simd/resolve.hpp>

#include \"${header}\"

using table = std::remove_cvref_t<decltype(${arg_FUNCTION}())>;
using constructor = void (*)();

// The linker names both ends of the sections that hold the constructors of each build.
${declarations}
namespace {

[[maybe_unused]] const table& chosen(const table& t, const constructor* begin, const constructor* end) {
    for (; begin != end; ++begin) (*begin)();
    return t;
}

const table& choose() {
${choice}}

}  // namespace

const table& ${arg_FUNCTION}() {
    static const table& best = choose();
    return best;
}
")
    target_sources(${target} PRIVATE ${folder}/choice.cpp)
    target_link_libraries(${target} PRIVATE mox::mox ${arg_LINK})
endfunction()
