// Encode speed on one thread, by processor time: tokenizer_bench TOKENIZER.json TEXT... prints one
// line per text,
//   path <tab> bytes <tab> tokens <tab> median MB/s <tab> best MB/s <tab> FNV-1a of the ids
// A NUL byte in a text begins another document; documents are encoded one by one. The hash, over
// all documents' ids, lets tools/bench_tokenizer.py check that what it compares with gives the same
// ones.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "base/file.h"
#include "text/tokenizer.h"

namespace {

using cachalot::text::Tokenizer;

// Processor time of this thread: other programs on the machine take wall time, not this.
double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

uint64_t fnv1a(const std::vector<int32_t>& ids) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8)
      hash = (hash ^ (static_cast<uint32_t>(id) >> shift & 255)) * 0x100000001B3u;
  }
  return hash;
}

std::vector<std::string_view> documents(std::string_view text) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t end = text.find('\0');
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

void measure(const Tokenizer& tokenizer, const std::string& path, std::string_view text) {
  const std::vector<std::string_view> parts = documents(text);
  const size_t bytes = text.size() + 1 - parts.size();
  std::vector<std::vector<int32_t>> ids(parts.size());
  const auto encode_all = [&] {
    for (size_t i = 0; i < parts.size(); ++i) ids[i] = tokenizer.encode(parts[i]);
  };
  encode_all();
  std::vector<double> speeds;  // at least 5 runs and 2 seconds
  for (double spent = 0; speeds.size() < 5 || spent < 2;) {
    const double start = thread_seconds();
    encode_all();
    const double seconds = thread_seconds() - start;
    spent += seconds;
    speeds.push_back(static_cast<double>(bytes) / seconds / 1e6);
  }
  std::sort(speeds.begin(), speeds.end());
  std::vector<int32_t> all;
  for (const auto& part : ids) all.insert(all.end(), part.begin(), part.end());
  fmt::print("{}\t{}\t{}\t{:.2f}\t{:.2f}\t{:016x}\n", path, bytes, all.size(),
             speeds[speeds.size() / 2], speeds.back(), fnv1a(all));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: tokenizer_bench TOKENIZER.json TEXT...\n");
    return 2;
  }
  const double start = thread_seconds();
  const auto tokenizer = Tokenizer::load(argv[1]);
  if (!tokenizer) {
    fmt::print(stderr, "{}\n", tokenizer.error().to_string());
    return 1;
  }
  fmt::print(stderr, "loaded {} in {:.3f} s\n", argv[1], thread_seconds() - start);
  for (int i = 2; i < argc; ++i) {
    const auto text = cachalot::read_text_file(argv[i]);
    if (!text) {
      fmt::print(stderr, "{}\n", text.error().to_string());
      return 1;
    }
    measure(*tokenizer, argv[i], *text);
  }
  return 0;
}
