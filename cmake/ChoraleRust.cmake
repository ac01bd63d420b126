# The crates under crates/, built by cargo into one static library each.

set(CHORALE_CARGO ${CMAKE_SOURCE_DIR}/scripts/cargo.sh)  # a cargo that is new enough

# Stops with what to install when there is none.
function(chorale_check_cargo)
  execute_process(COMMAND ${CHORALE_CARGO} --version RESULT_VARIABLE status OUTPUT_QUIET ERROR_VARIABLE reason
                  ERROR_STRIP_TRAILING_WHITESPACE)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "The tokenizer cannot be built: ${reason}")
  endif()
endfunction()

# chorale_crate(NAME): the crate crates/NAME as the target NAME_crate, with the headers in its include/ folder. All
# build types take the release profile and share crates/target; cargo runs when a source of the crate has changed.
function(chorale_crate name)
  chorale_check_cargo()
  set(workspace ${CMAKE_SOURCE_DIR}/crates)
  set(library ${workspace}/target/release/lib${name}.a)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${workspace}/${name}/src/*.rs)
  # The variables keep settings of the caller's shell away; the library is touched because cargo leaves it as it is
  # when only the time of a source has changed.
  add_custom_command(
    OUTPUT ${library}
    COMMAND ${CMAKE_COMMAND} -E env CARGO_TARGET_DIR=${workspace}/target --unset=RUSTFLAGS --unset=CARGO_BUILD_TARGET
            ${CHORALE_CARGO} build --release --locked --package ${name}
    COMMAND ${CMAKE_COMMAND} -E touch_nocreate ${library}
    DEPENDS ${sources} ${workspace}/${name}/Cargo.toml ${workspace}/Cargo.toml ${workspace}/Cargo.lock
    WORKING_DIRECTORY ${workspace}
    COMMENT "Building the crate ${name}"
    USES_TERMINAL VERBATIM)
  add_custom_target(${name}_build DEPENDS ${library})
  add_library(${name}_crate STATIC IMPORTED GLOBAL)
  set_target_properties(${name}_crate PROPERTIES
    IMPORTED_LOCATION ${library}
    INTERFACE_INCLUDE_DIRECTORIES ${workspace}/${name}/include
    INTERFACE_LINK_LIBRARIES "Threads::Threads;${CMAKE_DL_LIBS};m")
  add_dependencies(${name}_crate ${name}_build)
endfunction()
