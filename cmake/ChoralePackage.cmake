# What cmake --install puts where, and the Debian package: make package.
include(GNUInstallDirs)
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)  # the program alone: cpack needs no tests to be built

install(TARGETS chorale RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES README.md ARCHITECTURE.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR}/docs)
install(DIRECTORY machines/ DESTINATION ${CMAKE_INSTALL_DATADIR}/chorale/machines)
install(FILES deploy/grafana/chorale.json DESTINATION ${CMAKE_INSTALL_DOCDIR}/examples/grafana)
install(DIRECTORY deploy/prometheus/ DESTINATION ${CMAKE_INSTALL_DOCDIR}/examples/prometheus)
install(FILES deploy/systemd/chorale.service DESTINATION lib/systemd/system)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME chorale)
set(CPACK_PACKAGE_VENDOR "The Chorale authors")
set(CPACK_PACKAGE_CONTACT "The Chorale authors <chorale@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "inference server for Qwen3-MoE models with OpenAI's API")
set(CPACK_PACKAGE_DESCRIPTION
    "Chorale serves Hugging Face checkpoints of the Qwen3-MoE family on the CPU, with continuous batching, a paged KV
cache and an automatic prefix cache. A request's answer does not depend on what else the server is doing, or on how
it is parallelised.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)  # dependencies from the libraries that the program is linked to
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)

# What only Debian's package has, and not `cmake --install`: files in /etc, and documents in Debian's forms.
set(debian ${CMAKE_SOURCE_DIR}/deploy/debian)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${debian}/conffiles ${debian}/postinst ${debian}/prerm ${debian}/postrm)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_INSTALL_CMAKE_PROJECTS "${CMAKE_BINARY_DIR};chorale;Unspecified;/;${CMAKE_BINARY_DIR};chorale;debian;/")
configure_file(deploy/debian/changelog.in package/changelog @ONLY)
find_program(GZIP_PROGRAM gzip)
if(GZIP_PROGRAM)
  execute_process(COMMAND ${GZIP_PROGRAM} -9nkf ${CMAKE_BINARY_DIR}/package/changelog)
  install(FILES ${CMAKE_BINARY_DIR}/package/changelog.gz DESTINATION /usr/share/doc/chorale
          COMPONENT debian EXCLUDE_FROM_ALL)
endif()
install(FILES deploy/debian/copyright DESTINATION /usr/share/doc/chorale COMPONENT debian EXCLUDE_FROM_ALL)
install(FILES deploy/systemd/chorale.default DESTINATION /etc/default RENAME chorale
        COMPONENT debian EXCLUDE_FROM_ALL)

include(CPack)
