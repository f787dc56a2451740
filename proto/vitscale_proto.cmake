# vitscale_proto(TARGET t PROTOS a.proto … [GRPC]): generates and compiles; GRPC adds service stubs.
# gRPC 1.51 of Debian 12 has no generator function of its own.
function(vitscale_proto)
  cmake_parse_arguments(P "GRPC" "TARGET" "PROTOS;LIBS" ${ARGN})
  set(out ${CMAKE_CURRENT_BINARY_DIR}/gen)
  file(MAKE_DIRECTORY ${out})
  set(sources)
  foreach(proto ${P_PROTOS})
    string(REGEX REPLACE "\\.proto$" "" stem ${proto})
    if(P_GRPC)
      set(generated ${out}/${stem}.grpc.pb.cc ${out}/${stem}.grpc.pb.h)
      set(flags --grpc_out=${out} --plugin=protoc-gen-grpc=$<TARGET_FILE:gRPC::grpc_cpp_plugin>)
    else()
      set(generated ${out}/${stem}.pb.cc ${out}/${stem}.pb.h)
      set(flags --cpp_out=${out})
    endif()
    add_custom_command(OUTPUT ${generated}
      COMMAND $<TARGET_FILE:protobuf::protoc> -I ${CMAKE_CURRENT_SOURCE_DIR} ${flags}
              ${CMAKE_CURRENT_SOURCE_DIR}/${proto}
      DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${proto} VERBATIM)
    list(APPEND sources ${generated})
  endforeach()
  add_library(${P_TARGET} STATIC ${sources})
  target_include_directories(${P_TARGET} SYSTEM PUBLIC ${out})
  target_link_libraries(${P_TARGET} PUBLIC protobuf::libprotobuf ${P_LIBS})
endfunction()
