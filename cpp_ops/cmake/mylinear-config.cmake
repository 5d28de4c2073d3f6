# find_package(mylinear): write kernels for ONNX Runtime in C++17, without ONNX Runtime's headers.
#
#   mylinear::mylinear   the headers, with what a kernel must be compiled by; nothing to link
#   mylinear::kernels    products of matrices for each instruction set, compiled in the project that asks for them:
#                        find_package(mylinear REQUIRED COMPONENTS kernels)
if(NOT TARGET mylinear::mylinear)
  add_library(mylinear::mylinear INTERFACE IMPORTED)
  target_include_directories(mylinear::mylinear INTERFACE ${CMAKE_CURRENT_LIST_DIR}/..)
  target_compile_features(mylinear::mylinear INTERFACE cxx_std_17)
  # A fused product and sum rounds once instead of twice: what a kernel computes is not for the optimiser to choose.
  target_compile_options(mylinear::mylinear INTERFACE $<$<COMPILE_LANG_AND_ID:CXX,GNU,Clang,AppleClang>:-ffp-contract=off>
    $<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:--fmad=false;-Xcompiler=-ffp-contract=off>)
endif()
foreach(component IN LISTS mylinear_FIND_COMPONENTS)
  if(component STREQUAL "kernels")
    if(NOT TARGET mylinear::kernels)
      include(${CMAKE_CURRENT_LIST_DIR}/kernels.cmake)
      add_library(mylinear::kernels ALIAS mylinear_kernels)
    endif()
    set(mylinear_kernels_FOUND TRUE)
  elseif(mylinear_FIND_REQUIRED_${component})
    set(mylinear_FOUND FALSE)
    set(mylinear_NOT_FOUND_MESSAGE "the components of mylinear must be among kernels, got ${component}")
  endif()
endforeach()
