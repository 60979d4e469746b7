# One object from several: all symbols local but mox_variant_NAME, nothing in groups that a linker would merge, and the
# constructors of global objects in a section of their own, mox_init_NAME, which nobody runs before main.
#   cmake -DLD=... -DOBJCOPY=... -DOBJDUMP=... -DOBJECTS=a.o|b.o -DOUT=file.o -DNAME=name -P mox_isolate.cmake
string(REPLACE "|" ";" objects "${OBJECTS}")
set(table mox_variant_${NAME})

function(fail text)
    file(REMOVE ${OUT})
    message(FATAL_ERROR "${text}")
endfunction()

function(run)
    execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE out)
    if(NOT status EQUAL 0)
        fail("failed: ${ARGN}\n${out}")
    endif()
    set(out "${out}" PARENT_SCOPE)
endfunction()

run(${LD} -r --force-group-allocation -o ${OUT}.joined ${objects})
run(${OBJCOPY} --keep-global-symbol=${table} --rename-section .init_array=mox_init_${NAME} ${OUT}.joined ${OUT})
file(REMOVE ${OUT}.joined)

# What other objects still see: undefined symbols and the table.
run(${OBJDUMP} --syms ${OUT})
if(NOT out MATCHES " ${table}\n")
    fail("no source says MOX_VARIANT(...) for ${table}")
endif()
string(REGEX MATCHALL "[0-9a-f]+ [gwu!][^\n]*" shared "${out}")
foreach(line ${shared})
    if(NOT line MATCHES "\\*UND\\*|[ \t]${table}$")
        fail("a symbol is still shared between instruction sets: ${line}")
    endif()
endforeach()
run(${OBJDUMP} --section-headers ${OUT})
if(out MATCHES " \\.(init_array|preinit_array|ctors)")
    fail("the sources of ${table} run code before main, and so before the choice of the instruction set: "
         "no constructors with a priority")
endif()
