# cmake -DOUT=files.cpp -DDIR=folder -P Embed.cmake: the files of a page as one C++ source, which defines
# page_files() of src/server/page_files.h.
set(types html text/html css text/css js text/javascript svg image/svg+xml)
set(entries "")
file(GLOB files RELATIVE ${DIR} ${DIR}/*.html ${DIR}/*.css ${DIR}/*.js ${DIR}/*.svg)
foreach(file IN LISTS files)
  file(READ ${DIR}/${file} text)
  string(REGEX REPLACE ".*\\." "" ending "${file}")
  list(FIND types ${ending} place)
  math(EXPR place "${place} + 1")
  list(GET types ${place} type)
  set(path "/${file}")
  if(file STREQUAL index.html)
    set(path "/")
  endif()
  string(APPEND entries "    {\"${path}\", \"${type}; charset=utf-8\", R\"embed(${text})embed\"},\n")
endforeach()
file(WRITE ${OUT} "// Made by cmake/Embed.cmake.
#include \"server/page_files.h\"

namespace cachalot::server {

std::span<const StaticFile> page_files() {
  static constexpr StaticFile kFiles[] = {
${entries}  };
  return kFiles;
}

}  // namespace cachalot::server
")
