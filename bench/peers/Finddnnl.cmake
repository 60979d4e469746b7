# oneDNN by its header and library. Its own package file is not used: where oneDNN was built with a GPU engine
# (Debian's), that file stops the configuration unless OpenCL is installed for development, which a CPU does
# not need.
find_path(dnnl_INCLUDE_DIR oneapi/dnnl/dnnl.hpp)
find_library(dnnl_LIBRARY dnnl)
set(dnnl_VERSION "")
if(dnnl_INCLUDE_DIR)
    # 3.x keeps the numbers in a second file.
    foreach(file dnnl_version.h dnnl_version_hash.h)
        if(EXISTS "${dnnl_INCLUDE_DIR}/oneapi/dnnl/${file}")
            file(STRINGS "${dnnl_INCLUDE_DIR}/oneapi/dnnl/${file}" dnnl_lines
                 REGEX "define DNNL_VERSION_(MAJOR|MINOR|PATCH) +[0-9]+")
            foreach(line ${dnnl_lines})
                string(REGEX REPLACE ".*_(MAJOR|MINOR|PATCH) +([0-9]+).*" "\\2" number "${line}")
                list(APPEND dnnl_VERSION ${number})
            endforeach()
        endif()
    endforeach()
    list(JOIN dnnl_VERSION "." dnnl_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(dnnl REQUIRED_VARS dnnl_LIBRARY dnnl_INCLUDE_DIR VERSION_VAR dnnl_VERSION)
mark_as_advanced(dnnl_INCLUDE_DIR dnnl_LIBRARY)

if(dnnl_FOUND AND NOT TARGET dnnl::dnnl)
    add_library(dnnl::dnnl UNKNOWN IMPORTED)
    set_target_properties(dnnl::dnnl PROPERTIES IMPORTED_LOCATION "${dnnl_LIBRARY}"
                                                INTERFACE_INCLUDE_DIRECTORIES "${dnnl_INCLUDE_DIR}")
    # The benchmarks look up oneDNN's own OpenMP to set the number of threads.
    set_property(TARGET dnnl::dnnl PROPERTY INTERFACE_LINK_LIBRARIES ${CMAKE_DL_LIBS})
endif()
