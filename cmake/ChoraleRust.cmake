# The crates under crates/, built by cargo into one static library each.

set(CHORALE_MIN_RUST 1.87)

# Sets CHORALE_CARGO to a cargo that is new enough, or stops with what to install.
function(chorale_find_cargo)
  set(home $ENV{CARGO_HOME})
  if(NOT home)
    set(home $ENV{HOME}/.cargo)
  endif()
  find_program(CHORALE_CARGO_ON_PATH cargo)
  find_program(CHORALE_CARGO_AT_HOME cargo PATHS ${home}/bin NO_DEFAULT_PATH)
  mark_as_advanced(CHORALE_CARGO_ON_PATH CHORALE_CARGO_AT_HOME)
  set(found "none was found")
  foreach(cargo ${CHORALE_CARGO_ON_PATH} ${CHORALE_CARGO_AT_HOME})
    if(NOT EXISTS ${cargo})
      continue()
    endif()
    execute_process(COMMAND ${cargo} --version OUTPUT_VARIABLE version ERROR_QUIET
                    OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(version MATCHES "^cargo ([0-9]+\\.[0-9]+\\.[0-9]+)" AND CMAKE_MATCH_1 VERSION_GREATER_EQUAL CHORALE_MIN_RUST)
      set(CHORALE_CARGO ${cargo} PARENT_SCOPE)
      return()
    endif()
    set(found "${cargo} says \"${version}\"")
  endforeach()
  message(FATAL_ERROR "The tokenizer needs cargo of Rust ${CHORALE_MIN_RUST} or newer; ${found}. Install it with "
                      "\"apt install cargo-web rustc-web\" on Debian 12, or from https://rustup.rs.")
endfunction()

# chorale_crate(NAME): the crate crates/NAME as the target NAME_crate, with the headers in its include/ folder. All
# build types take the release profile and share crates/target; cargo runs when a source of the crate has changed.
function(chorale_crate name)
  chorale_find_cargo()
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
