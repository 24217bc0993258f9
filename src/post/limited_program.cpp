#include "post/limited_program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>

#include "base/check.h"
#include "base/file.h"

namespace cachalot::post {
namespace {

using Clock = std::chrono::steady_clock;

struct Pipe {
  Fd reads, writes;
};
Result<Pipe> make_pipe(const std::string& name) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0)
    return io_error(fmt::format("{}: pipe: {}", name, std::strerror(errno)));
  return Pipe{Fd(ends[0]), Fd(ends[1])};
}

void limit(int what, int64_t value) {
  const auto bound = static_cast<rlim_t>(value);
  const rlimit both{bound, bound};
  ::setrlimit(what, &both);
}

// Between fork and exec: nothing here may allocate or take a lock.
[[noreturn]] void become(char* const* argv, int input, int output, int dropped, int failure,
                         const ProgramLimits& limits) {
  ::setpgid(0, 0);
  ::dup2(input, STDIN_FILENO);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(dropped, STDERR_FILENO);
  limit(RLIMIT_CPU, static_cast<int64_t>(std::ceil(limits.seconds)) + 1);
  limit(RLIMIT_AS, limits.memory_bytes);
  limit(RLIMIT_CORE, 0);
  ::signal(SIGPIPE, SIG_DFL);
  ::execvp(argv[0], argv);
  const int error = errno;
  [[maybe_unused]] const ssize_t told = ::write(failure, &error, sizeof(error));
  ::_exit(127);
}

int milliseconds_left(Clock::time_point end) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
  return left.count() <= 0 ? 0 : static_cast<int>(std::min<int64_t>(left.count() + 1, 1000));
}

// Writes and reads until the program has closed its output, or a limit ends it.
ProgramRun::End talk(Fd input, std::string_view text, const Fd& output, Clock::time_point end,
                     int64_t max_bytes, std::string* said) {
  std::array<char, 1 << 14> buffer{};
  while (true) {
    if (Clock::now() >= end) return ProgramRun::End::timed_out;
    std::array<pollfd, 2> ends = {pollfd{output.get(), POLLIN, 0},
                                  pollfd{text.empty() ? -1 : input.get(), POLLOUT, 0}};
    if (::poll(ends.data(), ends.size(), milliseconds_left(end)) < 0 && errno != EINTR)
      return ProgramRun::End::killed;
    if (ends[1].revents != 0) {
      const ssize_t count = ::write(input.get(), text.data(), text.size());
      if (count > 0) text.remove_prefix(static_cast<size_t>(count));
      if (count < 0 && errno != EINTR && errno != EAGAIN) text = {};  // it does not want more
    }
    if (text.empty()) input = Fd();
    if (ends[0].revents == 0) continue;
    const ssize_t count = ::read(output.get(), buffer.data(), buffer.size());
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count <= 0) return ProgramRun::End::exited;
    said->append(buffer.data(), static_cast<size_t>(count));
    if (static_cast<int64_t>(said->size()) > max_bytes) return ProgramRun::End::said_too_much;
  }
}

}  // namespace

std::string program_end_text(const ProgramRun& run, const ProgramLimits& limits) {
  switch (run.end) {
    case ProgramRun::End::exited: return fmt::format("exit status {}", run.code);
    case ProgramRun::End::killed: return fmt::format("signal {}", run.code);
    case ProgramRun::End::timed_out: return fmt::format("no end within {} s", limits.seconds);
    case ProgramRun::End::said_too_much:
      return fmt::format("more than {} bytes of output", limits.output_bytes);
  }
  return "";
}

Result<ProgramRun> run_limited(const std::vector<std::string>& argv, std::string_view input,
                               const ProgramLimits& limits) {
  CACHALOT_CHECK(!argv.empty());
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                      std::chrono::duration<double>(limits.seconds));
  CACHALOT_ASSIGN_OR_RETURN(Pipe in, make_pipe(argv[0]));
  CACHALOT_ASSIGN_OR_RETURN(Pipe out, make_pipe(argv[0]));
  CACHALOT_ASSIGN_OR_RETURN(Pipe failure, make_pipe(argv[0]));
  const Fd dropped(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  ::fcntl(in.writes.get(), F_SETFL, O_NONBLOCK);
  std::vector<char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  // A program that does not read its input must not end us.
  struct sigaction ignore {
  }, before{};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &ignore, &before);
  const pid_t child = ::fork();
  if (child == 0) {
    become(arguments.data(), in.reads.get(), out.writes.get(), dropped.get(), failure.writes.get(),
           limits);
  }
  if (child < 0) {
    const std::string why = std::strerror(errno);
    ::sigaction(SIGPIPE, &before, nullptr);
    return io_error(fmt::format("{}: fork: {}", argv[0], why));
  }
  ::setpgid(child, child);  // whoever comes first
  in.reads = Fd();
  out.writes = Fd();
  failure.writes = Fd();
  int error = 0;
  const bool has_failed = ::read(failure.reads.get(), &error, sizeof(error)) == sizeof(error);
  ProgramRun run;
  if (!has_failed) {
    run.end = talk(std::move(in.writes), input, out.reads, end, limits.output_bytes, &run.output);
  }
  // Its children, too; and itself, should it have closed its output and go on.
  int status = 0;
  bool is_over = false;
  while (run.end == ProgramRun::End::exited && !is_over) {
    is_over = ::waitpid(child, &status, WNOHANG) != 0;
    if (is_over) break;
    if (Clock::now() >= end) {
      run.end = ProgramRun::End::timed_out;
    } else {
      ::poll(nullptr, 0, 1);
    }
  }
  ::kill(-child, SIGKILL);
  while (!is_over && ::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  ::sigaction(SIGPIPE, &before, nullptr);
  if (has_failed) {
    const std::string message = fmt::format("{}: start: {}", argv[0], std::strerror(error));
    return error == ENOENT ? not_found(message) : io_error(message);
  }
  if (run.end == ProgramRun::End::exited && WIFSIGNALED(status)) run.end = ProgramRun::End::killed;
  if (run.end == ProgramRun::End::killed) run.code = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if (run.end == ProgramRun::End::exited) run.code = WEXITSTATUS(status);
  return run;
}

}  // namespace cachalot::post
