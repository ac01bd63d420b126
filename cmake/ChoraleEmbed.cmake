# chorale_embed(TARGET NAME FILE): the bytes of FILE become part of the program, as
# extern "C" const char chorale_embedded_NAME[], chorale_embedded_NAME_end[].
function(chorale_embed target name file)
  set(assembly ${CMAKE_CURRENT_BINARY_DIR}/embedded/${name}.S)
  file(CONFIGURE OUTPUT ${assembly} @ONLY CONTENT [[
  .section .rodata
  .global chorale_embedded_@name@
  .global chorale_embedded_@name@_end
chorale_embedded_@name@:
  .incbin "@file@"
chorale_embedded_@name@_end:
  .section .note.GNU-stack, "", %progbits
]])
  set_source_files_properties(${assembly} PROPERTIES OBJECT_DEPENDS ${file})
  target_sources(${target} PRIVATE ${assembly})
endfunction()
