// The web page, compiled in from page/: a conversation with the model over this server's own API.
#pragma once

#include <span>

#include "server/server_state.h"

namespace cachalot::server {

// "/" among them. Lives as long as the program.
std::span<const StaticFile> page_files();

}  // namespace cachalot::server
