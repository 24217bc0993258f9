#include "apps/interrupts.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace cachalot::apps {
namespace {

// A signal handler has no other way to reach us than variables of static storage.
volatile sig_atomic_t seen = 0;
volatile sig_atomic_t allowed = 0;
const char* volatile told = nullptr;

void on_interrupt(int signal) {
  seen = seen + 1;
  if (seen <= allowed) {
    if (seen > 1 || told == nullptr) return;
    const int error = errno;
    [[maybe_unused]] const ssize_t written = ::write(STDOUT_FILENO, told, std::strlen(told));
    errno = error;
    return;
  }
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

}  // namespace

void watch_interrupts(int patience, const char* first) {
  seen = 0;
  told = first;
  allowed = patience;
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  ::sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // no SA_RESTART: a read at the prompt returns
  ::sigaction(SIGINT, &action, nullptr);
}

int interrupts() { return seen; }
void clear_interrupts() { seen = 0; }

}  // namespace cachalot::apps
