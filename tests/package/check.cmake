# Consumes mox the way a user would, in a fresh folder: configure, build, run.
file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK})

function(run)
    execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE out)
    if(NOT status EQUAL 0)
        message(FATAL_ERROR "failed: ${ARGN}\n${out}")
    endif()
endfunction()

set(arguments -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_BUILD_TYPE=Debug -DKIND=${KIND}
    -DMOX_SOURCE=${ROOT})
if(KIND STREQUAL "find_package")
    run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix)
    list(APPEND arguments -DCMAKE_PREFIX_PATH=${WORK}/prefix)
endif()
run(${CMAKE_COMMAND} -S ${ROOT}/tests/package -B ${WORK}/build ${arguments})
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/consumer)
# A subproject stays quiet: it builds nothing of its own.
if(NOT KIND STREQUAL "find_package")
    file(GLOB_RECURSE programs ${WORK}/build/*_test ${WORK}/build/language_model)
    if(programs)
        message(FATAL_ERROR "as a subproject mox built programs of its own: ${programs}")
    endif()
endif()
