# Reads src/LAYERS and offers
#   cachalot_library(folder SOURCES ...)             the folder's static library, linked to the folders it may use
#   cachalot_units(target)                            compiles its files of src in units of eight,
#                                                    which parse headers once
#   cachalot_compiled_alone(FILES)                    not in one unit with others of their folder,
#                                                    whose local names they have
#   cachalot_isa_sources(FILES)                       sets per-file flags from the ending (_avx2, _avx512, _avx512bf16)
#   cachalot_test(name SOURCES ... LINK ... LABELS ... PROVES ...)  one GoogleTest program, its cases registered with ctest
#       LABELS  go to every case: fast or slow, and ids of the conformance register that the whole program proves
#       PROVES  "regex=id,id" gives ids to the cases whose name matches: PROVES "Rope\\.=arch.0.7" "Pool.*Bits=infra.K5"
file(STRINGS ${CMAKE_SOURCE_DIR}/src/LAYERS layer_lines REGEX "^[a-z]+:")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/LAYERS)
set(CACHALOT_LAYERS "")
foreach(line IN LISTS layer_lines)
  string(REGEX REPLACE "^([a-z]+):.*$" "\\1" layer "${line}")
  string(REGEX REPLACE "^[a-z]+: *" "" uses "${line}")
  string(REPLACE " " ";" uses "${uses}")
  list(APPEND CACHALOT_LAYERS ${layer})
  set(CACHALOT_USES_${layer} ${uses})
endforeach()

function(cachalot_library layer)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_library(cachalot_${layer} STATIC ${ARG_SOURCES})
  target_include_directories(cachalot_${layer} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  set(deps "")
  foreach(use IN LISTS CACHALOT_USES_${layer})
    list(APPEND deps cachalot_${use})
  endforeach()
  target_link_libraries(cachalot_${layer} PUBLIC ${deps} ${ARG_LINK})
  cachalot_units(cachalot_${layer})
endfunction()

function(cachalot_compiled_alone)
  set_source_files_properties(${ARGN} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()

# Copies of what a planted fault touches are linked in its place (tests/faults), object by object.
file(GLOB patches CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/faults/patches/*.patch)
set(CACHALOT_PLANTED "")
foreach(patch IN LISTS patches)
  file(STRINGS ${patch} touched REGEX "^\\+\\+\\+ b/src/")
  list(TRANSFORM touched REPLACE "^\\+\\+\\+ b/src/" "")
  list(APPEND CACHALOT_PLANTED ${touched})
endforeach()

# CMake's own units name files by their whole paths, so that ccache would not know them in another
# clone.
function(cachalot_units target)
  cmake_language(EVAL CODE "cmake_language(DEFER CALL cachalot_write_units ${target})")
endfunction()
function(cachalot_write_units target)
  get_target_property(sources ${target} SOURCES)
  set(together "")
  foreach(source IN LISTS sources)
    get_source_file_property(options ${source} COMPILE_OPTIONS)
    get_source_file_property(alone ${source} SKIP_UNITY_BUILD_INCLUSION)
    file(REAL_PATH ${source} path)
    file(RELATIVE_PATH name ${CMAKE_SOURCE_DIR}/src ${path})
    if(name MATCHES "^[a-z].*\\.cpp$" AND NOT options AND NOT alone
       AND NOT name IN_LIST CACHALOT_PLANTED)
      set_source_files_properties(${source} PROPERTIES HEADER_FILE_ONLY ON)
      list(APPEND together ${name})
    endif()
  endforeach()
  list(LENGTH together count)
  if(count EQUAL 0)
    return()
  endif()
  math(EXPR last "${count} - 1")
  foreach(begin RANGE 0 ${last} 8)
    list(SUBLIST together ${begin} 8 unit)
    list(TRANSFORM unit REPLACE "(.+)" "#include \"\\1\"\n")
    list(JOIN unit "" unit)
    set(file ${CMAKE_CURRENT_BINARY_DIR}/${target}_${begin}.cpp)
    file(CONFIGURE OUTPUT ${file} CONTENT "${unit}" @ONLY)
    target_sources(${target} PRIVATE ${file})
  endforeach()
endfunction()

function(cachalot_isa_sources)
  foreach(file IN LISTS ARGN)
    if(file MATCHES "_avx512bf16\\.cpp$")
      set(flags -mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vbmi -mavx512bf16 -mavx512vnni)
    elseif(file MATCHES "_avx512\\.cpp$")
      set(flags -mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl)
    elseif(file MATCHES "_avx2\\.cpp$")
      set(flags -mavx2 -mfma -mf16c)
    else()
      message(FATAL_ERROR "${file}: no instruction set in its name")
    endif()
    if(file MATCHES "avx512" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      list(APPEND flags -Wno-maybe-uninitialized)  # GCC 12 warns about its own intrinsics (its bug 105593)
    endif()
    set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${flags}" SKIP_PRECOMPILE_HEADERS ON)
  endforeach()
endfunction()

# The optimiser would take half of a test's build time, and tests wait for the libraries they call. (With sanitizers and clang
# the least of it takes as long again.)
set(cachalot_test_options $<$<CONFIG:Release>:-O1> $<$<BOOL:${CACHALOT_FUZZ}>:-O0>)

# Owns the header that is compiled once for all tests: GoogleTest alone is half of what most of them are made of.
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/test_header.cpp CONTENT "// Owns the tests' precompiled header.\n")
add_library(cachalot_test_header OBJECT EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/test_header.cpp)
target_compile_options(cachalot_test_header PRIVATE ${cachalot_test_options})
target_link_libraries(cachalot_test_header PRIVATE fmt::fmt GTest::gtest)
target_precompile_headers(cachalot_test_header PRIVATE <gtest/gtest.h> <fmt/format.h>)

function(cachalot_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK;LABELS;PROVES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_compile_options(${name} PRIVATE ${cachalot_test_options})
  target_precompile_headers(${name} REUSE_FROM cachalot_test_header)
  # GCC forgets that functions of a precompiled header are the system's, and warns of them without cause.
  target_compile_options(${name} PRIVATE
    "$<$<CXX_COMPILER_ID:GNU>:-Wno-array-bounds;-Wno-stringop-overflow;-Wno-stringop-overread>")
  target_link_libraries(${name}
    PRIVATE ${ARG_LINK} cachalot_test_data GTest::gtest GTest::gtest_main)
  if(NOT ARG_LABELS)
    set(ARG_LABELS fast)
  endif()
  # Labels are set when ctest reads its files: gtest_discover_tests keeps only the first element of a list.
  set(script "foreach(case IN LISTS ${name}_TESTS)\n  set(labels \"${ARG_LABELS}\")\n")
  foreach(rule IN LISTS ARG_PROVES)
    if(NOT rule MATCHES "^(.+)=([^=]+)$")
      message(FATAL_ERROR "${name}: PROVES expected \"regex=id,id\", found \"${rule}\"")
    endif()
    string(REPLACE "," ";" ids "${CMAKE_MATCH_2}")
    string(APPEND script "  if(case MATCHES [==[${CMAKE_MATCH_1}]==])\n    list(APPEND labels ${ids})\n  endif()\n")
  endforeach()
  string(APPEND script "  set_tests_properties(\"\${case}\" PROPERTIES LABELS \"\${labels}\")\nendforeach()\n")
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST)
  file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/${name}_labels.cmake CONTENT "${script}" @ONLY)
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${CMAKE_CURRENT_BINARY_DIR}/${name}_labels.cmake)
endfunction()
