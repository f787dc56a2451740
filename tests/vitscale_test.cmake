# vitscale_test(NAME server_test SOURCES a_test.cc … LIBS …): one test program per folder, run by CTest.
#
# gtest_discover_tests is not used: it starts every binary at build time. CTest sees one test per program, and
# programs that need longer than the default say so with TIMEOUT (seconds).
add_library(vitscale_test_main STATIC ${CMAKE_CURRENT_LIST_DIR}/test_main.cc)
target_link_libraries(vitscale_test_main PUBLIC GTest::gtest GTest::gmock absl::status absl::statusor)
target_precompile_headers(vitscale_test_main PUBLIC <gmock/gmock.h> <gtest/gtest.h>)
# The precompiled header fits only what is compiled with the same flags: libraries get -fPIC, programs -fPIE.
set_target_properties(vitscale_test_main PROPERTIES POSITION_INDEPENDENT_CODE OFF)

function(vitscale_test)
  cmake_parse_arguments(T "" "NAME;TIMEOUT" "SOURCES;LIBS;LABELS" ${ARGN})
  add_executable(${T_NAME} ${T_SOURCES})
  target_link_libraries(${T_NAME} PRIVATE vitscale_test_main ${T_LIBS})
  target_precompile_headers(${T_NAME} REUSE_FROM vitscale_test_main)
  set_target_properties(${T_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests
                                               POSITION_INDEPENDENT_CODE OFF)
  add_test(NAME ${T_NAME} COMMAND ${T_NAME})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 120)
  endif()
  set_tests_properties(${T_NAME} PROPERTIES TIMEOUT ${T_TIMEOUT} LABELS "${T_LABELS}")
endfunction()
