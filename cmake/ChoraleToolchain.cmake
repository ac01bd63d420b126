# Compiler settings that hold for every target: cache, warnings, sanitizers, linker.

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Precompiled headers are only cached when ccache is told that timestamps and defines in them do not matter.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      ${CCACHE_PROGRAM})
  set(CMAKE_C_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

# Not for nvcc, which has options of its own (ChoraleCuda.cmake).
set(chorale_host "$<NOT:$<COMPILE_LANGUAGE:CUDA>>")
add_compile_options("$<${chorale_host}:-Wall;-Wextra;-Wshadow;-Wnon-virtual-dtor;-Wold-style-cast;-Wcast-qual>"
                    "$<${chorale_host}:-Wno-missing-field-initializers>")
if(CHORALE_WERROR)
  add_compile_options("$<${chorale_host}:-Werror>")
endif()

# The numerics contract: no contraction or reassociation that the code does not write itself, so that the same
# source gives the same bits wherever it is inlined.
add_compile_options("$<${chorale_host}:-ffp-contract=off;-fno-fast-math>")

if(CHORALE_SANITIZE)
  add_compile_options(-fsanitize=${CHORALE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${CHORALE_SANITIZE})
endif()

find_program(MOLD_PROGRAM mold)
if(MOLD_PROGRAM)
  add_link_options(-fuse-ld=mold)
endif()
