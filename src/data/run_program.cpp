#include "data/run_program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/file.h"

extern char** environ;

namespace cachalot::data {
namespace {

std::vector<char*> pointers_to(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  return pointers;
}

}  // namespace

Result<std::string> run_program(const Program& program) {
  const auto& [argv, debian_package, directory, environment, max_bytes] = program;
  // posix_spawn tells a missing directory and a missing program by the same code.
  if (!directory.empty() && ::access(directory.c_str(), X_OK) != 0)
    return io_error(fmt::format("{}: enter: {}", directory, std::strerror(errno)));
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0)
    return io_error(fmt::format("{}: pipe: {}", argv[0], std::strerror(errno)));
  Fd reads(ends[0]), writes(ends[1]);
  std::vector<char*> arguments = pointers_to(argv), variables = pointers_to(environment);
  arguments.push_back(nullptr);
  for (char** ours = environ; *ours != nullptr; ++ours) variables.push_back(*ours);
  variables.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, writes.get(), STDOUT_FILENO);
  if (!directory.empty()) ::posix_spawn_file_actions_addchdir_np(&actions, directory.c_str());
  pid_t child = 0;
  const int error = ::posix_spawnp(&child, argv[0].c_str(), &actions, nullptr, arguments.data(),
                                   variables.data());
  ::posix_spawn_file_actions_destroy(&actions);
  if (error == ENOENT)
    return not_found(fmt::format("{}: expected this program, found none (Debian package {})",
                                 argv[0], debian_package));
  if (error != 0) return io_error(fmt::format("{}: start: {}", argv[0], std::strerror(error)));
  writes = Fd();
  std::string out;
  std::array<char, 1 << 16> buffer{};
  while (true) {
    const ssize_t count = ::read(reads.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0 || out.size() > max_bytes) break;
    out.append(buffer.data(), static_cast<size_t>(count));
  }
  reads = Fd();  // a program that says more ends with its pipe
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (out.size() > max_bytes)
    return io_error(
        fmt::format("{}: expected at most {} bytes of output, found more", argv[0], max_bytes));
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    return io_error(fmt::format("{}: expected exit status 0, found {}", fmt::join(argv, " "),
                                WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)));
  return out;
}

}  // namespace cachalot::data
