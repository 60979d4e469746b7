# The host's /usr/include holds header-only libraries, which are wanted, and the host's C library, which is not:
# the wanted ones get a folder of their own.
list(APPEND CMAKE_CXX_IMPLICIT_INCLUDE_DIRECTORIES /usr/include)  # CMake then never passes it on
set(folder ${CMAKE_BINARY_DIR}/host_headers)
file(MAKE_DIRECTORY ${folder})
foreach(name xsimd catch2 nlohmann)
    if(EXISTS /usr/include/${name})
        file(CREATE_LINK /usr/include/${name} ${folder}/${name} SYMBOLIC)
    endif()
endforeach()
include_directories(SYSTEM ${folder})
