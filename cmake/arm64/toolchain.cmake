# Builds for ARM64 with Debian's cross compiler, and runs tests under QEMU's user emulation. Needs the packages
# of `install_packages.sh arm64`; everything else that mox uses are headers, and the host's serve both.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR "qemu-aarch64;-L;/usr/aarch64-linux-gnu")
set(CMAKE_PROJECT_INCLUDE ${CMAKE_CURRENT_LIST_DIR}/host_headers.cmake)
# Debian files xsimd's package under the host's architecture.
file(GLOB xsimd_folders /usr/lib/*/cmake/xsimd)
if(xsimd_folders AND NOT xsimd_DIR)
    list(GET xsimd_folders 0 xsimd_DIR)
    set(xsimd_DIR ${xsimd_DIR} CACHE PATH "")
endif()
