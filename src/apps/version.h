// What --version says: the program's version, the commit it was built from, the instruction sets
// that its kernels are made for and the one that they run with here.
#pragma once

#include <string>

namespace cachalot::apps {

std::string version_text();

}  // namespace cachalot::apps
