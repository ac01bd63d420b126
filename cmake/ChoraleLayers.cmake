# Read once by the tests, and with sanitizers, whose templates cost a third of a compilation, by the layers. Elsewhere each
# file reads its own, which proves what it includes.
set(chorale_common_headers
    <algorithm> <array> <chrono> <condition_variable> <cstring> <filesystem> <fstream> <functional> <map> <memory> <mutex>
    <numeric> <optional> <random> <set> <span> <sstream> <string> <string_view> <thread> <unordered_map> <variant> <vector>
    <fmt/format.h> <fmt/ranges.h>)

# The layers that take long to run, as do the references in their tests. With sanitizers the others are not optimised, and
# the tests of the others never are.
set(chorale_computing "^(base|io|kernels|model|parallel|tools)$")

# One folder under src/ is one static library: chorale_layer(NAME DEPENDS layer... LIBRARIES target...).
function(chorale_layer name)
  cmake_parse_arguments(ARG "" "" "DEPENDS;LIBRARIES;EXCLUDE" ${ARGN})
  set(patterns ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cpp)
  if(CHORALE_CUDA)
    list(APPEND patterns ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cu)
  endif()
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${patterns})
  foreach(pattern IN LISTS ARG_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX ${pattern})
  endforeach()
  set(scope PUBLIC)
  if(sources)
    add_library(chorale_${name} STATIC ${sources})
  else()
    set(scope INTERFACE)  # headers alone
    add_library(chorale_${name} INTERFACE)
  endif()
  target_include_directories(chorale_${name} ${scope} ${CMAKE_CURRENT_SOURCE_DIR})
  if(sources AND CHORALE_SANITIZE AND NOT name MATCHES ${chorale_computing})
    target_compile_options(chorale_${name} PRIVATE -O0)
  endif()
  if(sources AND CHORALE_SANITIZE AND NOT name STREQUAL kernels)  # whose files are for different instruction sets
    target_precompile_headers(chorale_${name} PRIVATE ${chorale_common_headers})
  endif()
  list(TRANSFORM ARG_DEPENDS PREPEND chorale_ OUTPUT_VARIABLE layers)
  target_link_libraries(chorale_${name} ${scope} ${layers} ${ARG_LIBRARIES})
endfunction()

# Many times what any takes: one that hangs is told soon, and the others run.
set(chorale_test_seconds 300)
if(CHORALE_SANITIZE)
  set(chorale_test_seconds 900)
endif()

# The unit tests of one layer: every *_test.cpp under tests/unit/NAME, linked to that layer alone. The target unit_tests
# builds those of all layers. PARTS: into how many tests of ctest they are divided, 1 by default.
function(chorale_layer_test name)
  cmake_parse_arguments(ARG "" "PARTS" "LIBRARIES" ${ARGN})
  if(NOT ARG_PARTS)
    set(ARG_PARTS 1)
  endif()
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/unit/${name}/*_test.cpp)
  if(NOT sources)
    return()
  endif()
  add_executable(${name}_tests ${sources})
  target_include_directories(${name}_tests PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_link_libraries(${name}_tests PRIVATE chorale_${name} source_dir ${ARG_LIBRARIES} GTest::gmock GTest::gtest_main)
  # What takes long to run is in the layers, and in the references that some tests have.
  if(NOT name MATCHES ${chorale_computing})
    target_compile_options(${name}_tests PRIVATE -O0)
  elseif(NOT CHORALE_SANITIZE)
    target_compile_options(${name}_tests PRIVATE $<$<CONFIG:Release>:-O1>)
  endif()
  list(LENGTH sources num_sources)
  if(CHORALE_SANITIZE OR num_sources GREATER 5)
    target_precompile_headers(${name}_tests PRIVATE ${chorale_common_headers} <gmock/gmock.h> <gtest/gtest.h>)
  endif()
  if(NOT TARGET unit_tests)
    add_custom_target(unit_tests)
  endif()
  add_dependencies(unit_tests ${name}_tests)
  # In as many parts as cores can take; scripts/count_tests.py adds up their reports.
  math(EXPR last "${ARG_PARTS} - 1")
  foreach(part RANGE ${last})
    set(test ${name})
    set(environment "")
    if(ARG_PARTS GREATER 1)
      set(test ${name}_${part})
      set(environment GTEST_TOTAL_SHARDS=${ARG_PARTS} GTEST_SHARD_INDEX=${part})
    endif()
    add_test(NAME ${test} COMMAND ${CMAKE_SOURCE_DIR}/tests/unit/run.sh ${test} $<TARGET_FILE:${name}_tests>)
    set_tests_properties(${test} PROPERTIES LABELS unit TIMEOUT ${chorale_test_seconds} ENVIRONMENT "${environment}")
  endforeach()
endfunction()
