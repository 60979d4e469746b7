# Flags of our own tests, examples and benchmarks. Users of the library never see them.

option(MOX_NATIVE "Compile tests, examples and benchmarks for the machine at hand" ON)
set(MOX_SANITIZE "" CACHE STRING "Sanitizers for tests and examples, such as address,undefined")

add_library(mox_developer INTERFACE)
target_link_libraries(mox_developer INTERFACE mox::mox)
target_compile_options(mox_developer INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC 12 calls its own AVX-512 intrinsics uninitialised (bug 105593) and sees overflows and overlaps in
    # its own std::vector and std::string; Clang and the sanitizers check the same code.
    target_compile_options(mox_developer INTERFACE -Wno-uninitialized -Wno-maybe-uninitialized
                                                   -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread
                                                   -Wno-restrict)
endif()
if(MOX_NATIVE)
    target_compile_options(mox_developer INTERFACE -march=native)
endif()
if(MOX_SANITIZE)
    target_compile_options(mox_developer INTERFACE -fsanitize=${MOX_SANITIZE} -fno-sanitize-recover=all
                                                   -fno-omit-frame-pointer)
    target_link_options(mox_developer INTERFACE -fsanitize=${MOX_SANITIZE})
    if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
        target_compile_options(mox_developer
                               INTERFACE -fsanitize-ignorelist=${CMAKE_CURRENT_LIST_DIR}/sanitizer_ignore.txt)
    endif()
endif()
