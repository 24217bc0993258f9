// How many threads of this process can run at once: what the affinity mask allows and the CPU quota
// of its control groups pays for.
// Source  proc(5) (cgroup, mountinfo), sched_getaffinity(2); the kernel's cgroup-v2 (cpu.max) and
//         sched-bwc (cpu.cfs_quota_us) documents.
#pragma once

#include <string>

namespace cachalot {

// At least 1. What cannot be read limits nothing. The groups are read under `root`, as below.
int usable_cores(const std::string& root = "");

// Cores' worth of time that the control groups grant: the least over the process's group and those
// above it, in either version of the interface. 0: no limit. Reads proc/ and the mounted
// hierarchies under `root` ("" is the machine).
double control_group_cores(const std::string& root);

// The cores of the mask that the quota keeps busy, at least 1. A quota between two numbers counts
// as the nearer: half a core more is worth a thread, a tenth would only make the others wait for
// it.
int cores_within_quota(int cores, double quota);

}  // namespace cachalot
