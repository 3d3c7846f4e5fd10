# cmake -DNM=<nm> -DISA=<namespace> -DTABLE=<symbol> -DOBJECT=<file> -P symbols.cmake
#
# Fails where an instruction set's object defines a global or weak symbol that is neither in that set's own namespace
# nor its table: of several such symbols with one name the linker keeps any, and hands it to every caller.
cmake_minimum_required(VERSION 3.21...4.0)

execute_process(COMMAND "${NM}" -g --defined-only "${OBJECT}" OUTPUT_VARIABLE text COMMAND_ERROR_IS_FATAL ANY)
string(LENGTH "${ISA}" length)
set(own "^_?_Z[A-Z]*2fp${length}${ISA}")  # local names and const members included
set(compiler "^_?(__[a-z]|DW\\.ref\\.)")
string(REGEX MATCHALL "[^ \n]+\n" symbols "${text}")
set(found_table FALSE)
foreach(symbol IN LISTS symbols)
  string(STRIP "${symbol}" symbol)
  if(symbol MATCHES "^_?${TABLE}$")
    set(found_table TRUE)
  elseif(NOT symbol MATCHES "${own}" AND NOT symbol MATCHES "${compiler}")
    message(SEND_ERROR "${OBJECT}: ${symbol} is not in fp::${ISA}; inline it always, or move it there")
  endif()
endforeach()
if(NOT found_table)
  message(SEND_ERROR "${OBJECT}: ${TABLE} is not among its symbols")
endif()
