include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(mox_package_dir ${CMAKE_INSTALL_DATADIR}/cmake/mox)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/mox DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS mox EXPORT mox_targets)
install(EXPORT mox_targets FILE moxTargets.cmake NAMESPACE mox:: DESTINATION ${mox_package_dir})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/moxConfig.cmake.in
                              ${PROJECT_BINARY_DIR}/moxConfig.cmake INSTALL_DESTINATION ${mox_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/moxConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/moxConfig.cmake ${PROJECT_BINARY_DIR}/moxConfigVersion.cmake
              cmake/mox_multiarch.cmake cmake/mox_isolate.cmake
        DESTINATION ${mox_package_dir})
configure_file(${PROJECT_SOURCE_DIR}/cmake/mox.pc.in ${PROJECT_BINARY_DIR}/mox.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/mox.pc DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)
