#include "base/usable_cores.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>
#include <thread>
#include <vector>

namespace cachalot {
namespace {

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (true) {
    const size_t end = text.find(separator);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

bool contains(const std::vector<std::string>& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// One of the two interfaces: where its hierarchy is mounted, which group is the mount's root, and
// which group the process is in.
struct Hierarchy {
  bool unified = false;
  std::string mount;
  std::string mount_root;
  std::string group;
};

// A line of mountinfo: id parent device root mount-point options [fields...] - type source options.
std::optional<Hierarchy> parse_mount(const std::string& line) {
  std::istringstream words(line);
  Hierarchy mounted;
  std::string skipped, type, options;
  words >> skipped >> skipped >> skipped >> mounted.mount_root >> mounted.mount;
  while (words >> skipped && skipped != "-") {
  }
  words >> type >> skipped >> options;
  mounted.unified = type == "cgroup2";
  if (mounted.unified || (type == "cgroup" && contains(split(options, ','), "cpu"))) return mounted;
  return std::nullopt;
}

// The process's group in the hierarchy, from lines "number:controllers:path".
std::string group_of(const std::string& root, bool unified) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (unified ? line.starts_with("0:") && controllers.empty()
                : contains(split(controllers, ','), "cpu"))
      return line.substr(second + 1);
  }
  return "/";
}

std::vector<Hierarchy> hierarchies(const std::string& root) {
  std::vector<Hierarchy> found;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    std::optional<Hierarchy> hierarchy = parse_mount(line);
    if (!hierarchy) continue;
    hierarchy->group = group_of(root, hierarchy->unified);
    found.push_back(*std::move(hierarchy));
  }
  return found;
}

// The group's own quota in cores; 0: none.
double quota_of(const std::string& directory, bool unified) {
  double quota = 0, period = 0;
  if (unified) {
    std::ifstream(directory + "/cpu.max") >> quota >> period;  // "max" leaves both 0
  } else {
    std::ifstream(directory + "/cpu.cfs_quota_us") >> quota;  // -1: none
    std::ifstream(directory + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? quota / period : 0;
}

// The process's group as a path below the mount. Where the mount shows another part of the tree
// (a container that sees its host's names), its root is the nearest that can be seen.
std::string path_below(const Hierarchy& hierarchy) {
  const std::string top = hierarchy.mount_root == "/" ? "" : hierarchy.mount_root;
  if (!hierarchy.group.starts_with(top + "/")) return "";
  std::string path = hierarchy.group.substr(top.size());
  if (path.find("/..") != std::string::npos) return "";
  if (path.ends_with('/')) path.pop_back();
  return path;
}

int affinity_cores() {
  constexpr int kMostCores = 1 << 16;
  for (int count = 1024; count <= kMostCores; count *= 2) {
    std::vector<cpu_set_t> mask(static_cast<size_t>(count) / CPU_SETSIZE);
    const size_t bytes = mask.size() * sizeof(cpu_set_t);
    if (::sched_getaffinity(0, bytes, mask.data()) == 0) return CPU_COUNT_S(bytes, mask.data());
  }
  return static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

double control_group_cores(const std::string& root) {
  double least = 0;
  for (const Hierarchy& hierarchy : hierarchies(root)) {
    std::string path = path_below(hierarchy);
    while (true) {
      const double quota = quota_of(root + hierarchy.mount + path, hierarchy.unified);
      if (quota > 0 && (least == 0 || quota < least)) least = quota;
      if (path.empty()) break;
      path.resize(path.rfind('/'));
    }
  }
  return least;
}

int cores_within_quota(int cores, double quota) {
  if (quota > 0 && quota < cores) cores = static_cast<int>(std::lround(quota));
  return std::max(cores, 1);
}

int usable_cores(const std::string& root) {
  return cores_within_quota(affinity_cores(), control_group_cores(root));
}

}  // namespace cachalot
