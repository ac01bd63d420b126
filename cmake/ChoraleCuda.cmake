# CUDA for src/kernels/cuda and tests/gpu: CHORALE_CUDA. Off: kernels/no_cuda.cpp stands in, and nothing of CUDA is
# looked for. The runtime is linked statically, so that a program with CUDA starts where there is no GPU and no driver.

option(CHORALE_CUDA "Build the CUDA backend (Hopper GPUs)" OFF)
set(CHORALE_MIN_CUDA 12.8)

if(CHORALE_CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    execute_process(COMMAND ${CMAKE_SOURCE_DIR}/scripts/cuda_toolkit.sh --print OUTPUT_VARIABLE chorale_cuda_home
                    OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
    if(NOT chorale_cuda_home)
      message(FATAL_ERROR "CHORALE_CUDA needs nvcc ${CHORALE_MIN_CUDA} or newer, and none was found on PATH, in "
                          "/usr/local/cuda or in .cuda. scripts/setup.sh cuda installs one into .cuda.")
    endif()
    set(CMAKE_CUDA_COMPILER ${chorale_cuda_home}/bin/nvcc CACHE FILEPATH "The CUDA compiler")
  endif()
  if(NOT CMAKE_CUDA_HOST_COMPILER AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
  endif()
  # 90a, not 90: the warpgroup instructions are those of one architecture. No code that a driver would compile.
  set(CMAKE_CUDA_ARCHITECTURES 90a-real)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  if(CCACHE_PROGRAM AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
  endif()
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know which standards CUDA 13 has
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS CHORALE_MIN_CUDA)
    message(FATAL_ERROR "CHORALE_CUDA needs nvcc ${CHORALE_MIN_CUDA} or newer, but ${CMAKE_CUDA_COMPILER} is "
                        "${CMAKE_CUDA_COMPILER_VERSION}")
  endif()
  set(chorale_cuda "$<COMPILE_LANGUAGE:CUDA>")
  # Warnings of the host compiler but for those of code that nvcc makes itself, and of nvcc's own passes.
  add_compile_options("$<${chorale_cuda}:-Xcompiler=-Wall,-Wextra,-Wshadow,-Wnon-virtual-dtor>")
  if(CHORALE_WERROR)
    add_compile_options("$<${chorale_cuda}:-Werror=all-warnings>")
  endif()
  # The numerics contract, as for the host: kernels write their fused multiply-adds out.
  add_compile_options("$<${chorale_cuda}:--fmad=false;-Xcompiler=-ffp-contract=off>")
  # Arithmetic of tiles and plans is written once, for host and device.
  add_compile_options("$<${chorale_cuda}:--expt-relaxed-constexpr>")
  # fmt takes nvcc for a compiler that cannot evaluate constants.
  add_compile_definitions("$<${chorale_cuda}:FMT_USE_CONSTEXPR=1>")
endif()
message(STATUS "CUDA: ${CHORALE_CUDA}")
