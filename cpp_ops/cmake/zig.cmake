# A toolchain file: compiles for another platform by `zig c++`, from the Python package ziglang. wheels.sh gives
# MYLINEAR_PYTHON (a Python that has ziglang) and MYLINEAR_ZIG_TARGET (such as x86_64-windows-gnu).
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES MYLINEAR_PYTHON MYLINEAR_ZIG_TARGET)
string(REGEX MATCH "^([^-]+)-([^-.]+)" _ "${MYLINEAR_ZIG_TARGET}")
set(CMAKE_SYSTEM_PROCESSOR ${CMAKE_MATCH_1})
if(CMAKE_MATCH_2 STREQUAL macos)
  set(CMAKE_SYSTEM_NAME Darwin)
elseif(CMAKE_MATCH_2 STREQUAL windows)
  set(CMAKE_SYSTEM_NAME Windows)
elseif(CMAKE_MATCH_2 STREQUAL linux)
  set(CMAKE_SYSTEM_NAME Linux)
else()
  message(FATAL_ERROR "MYLINEAR_ZIG_TARGET must name linux, macos or windows, got ${MYLINEAR_ZIG_TARGET}")
endif()
set(CMAKE_CXX_COMPILER ${MYLINEAR_PYTHON} -m ziglang c++ -target ${MYLINEAR_ZIG_TARGET})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
# No static library is made; CMake wants an archiver all the same.
set(CMAKE_AR ${MYLINEAR_PYTHON})
set(CMAKE_RANLIB ${MYLINEAR_PYTHON})
