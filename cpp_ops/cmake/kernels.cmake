# The target mylinear_kernels: products of matrices, one unit for each instruction set that the compiler knows. Included
# by this project's own build, and by `find_package(mylinear COMPONENTS kernels)` in others.
set(MYLINEAR_ROOM ${CMAKE_CURRENT_LIST_DIR}/../kernels)
add_library(mylinear_kernels OBJECT ${MYLINEAR_ROOM}/gemm.cc ${MYLINEAR_ROOM}/matmul/matmul.cc
  ${MYLINEAR_ROOM}/activation/activation.cc ${MYLINEAR_ROOM}/adam/adam.cc ${MYLINEAR_ROOM}/turned/scratch.cc
  ${MYLINEAR_ROOM}/isa/baseline.cc ${MYLINEAR_ROOM}/isa/isa.cc)
target_include_directories(mylinear_kernels PUBLIC ${CMAKE_CURRENT_LIST_DIR}/..)
target_compile_features(mylinear_kernels PUBLIC cxx_std_17)
set_target_properties(mylinear_kernels PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden
  VISIBILITY_INLINES_HIDDEN ON)
# Only the FMAs that the source asks for. Nothing reads errno; a square root that sets it cannot be a vector's.
target_compile_options(mylinear_kernels PRIVATE -ffp-contract=off -fno-exceptions -fno-math-errno $<$<CONFIG:>:-O3>)

# Adds the unit of an ISA if the compiler knows all of its flags.
set(MYLINEAR_KNOWN_ISAS avx2 avx512 avx512_bf16 amx_bf16 neon)
set(MYLINEAR_ISAS "" CACHE STRING "the instruction sets to compile beside the baseline; empty for all")
foreach(isa ${MYLINEAR_ISAS})
  if(NOT isa IN_LIST MYLINEAR_KNOWN_ISAS)
    message(FATAL_ERROR "MYLINEAR_ISAS must name some of ${MYLINEAR_KNOWN_ISAS}, got ${isa}")
  endif()
endforeach()
if(MYLINEAR_ISAS MATCHES "_bf16" AND NOT "avx512" IN_LIST MYLINEAR_ISAS)
  message(FATAL_ERROR "MYLINEAR_ISAS must name avx512 with ${MYLINEAR_ISAS}: all their kernels but one are those of avx512")
endif()
include(CheckCXXCompilerFlag)
function(add_isa isa)
  if(MYLINEAR_ISAS AND NOT isa IN_LIST MYLINEAR_ISAS)
    return()
  endif()
  string(TOUPPER ${isa} upper)
  set(flags ${ARGN})
  list(FILTER flags EXCLUDE REGEX "-W")
  string(REPLACE ";" " " flags "${flags}")
  if(flags)
    check_cxx_compiler_flag("${flags}" MYLINEAR_COMPILES_${upper})
    if(NOT MYLINEAR_COMPILES_${upper})
      return()
    endif()
  endif()
  target_sources(mylinear_kernels PRIVATE ${MYLINEAR_ROOM}/isa/${isa}.cc)
  set_source_files_properties(${MYLINEAR_ROOM}/isa/${isa}.cc PROPERTIES COMPILE_OPTIONS "${ARGN}")
  target_compile_definitions(mylinear_kernels PUBLIC MYLINEAR_HAS_${upper})
endfunction()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  add_isa(avx2 -mavx2 -mfma -mf16c)
  # GCC 12 calls the "undefined" vectors inside its own intrinsics uninitialized (GCC bug 105593).
  set(MYLINEAR_AVX512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -Wno-uninitialized
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  add_isa(avx512 ${MYLINEAR_AVX512})
  add_isa(avx512_bf16 ${MYLINEAR_AVX512} -mavx512bf16)
  add_isa(amx_bf16 ${MYLINEAR_AVX512} -mamx-tile -mamx-bf16)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  add_isa(neon)
endif()
