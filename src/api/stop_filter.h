// A stream of text up to the first of some strings, wherever its deltas are cut.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cachalot::api {

class StopFilter {
 public:
  // `keeps_stop`: the string that ended the text is its end.
  explicit StopFilter(std::vector<std::string> stops = {}, bool keeps_stop = false)
      : stops_(std::move(stops)), keeps_stop_(keeps_stop) {}

  // Appends what is certain: no text from which a stop string may still begin. After a stop string
  // nothing more comes.
  void push(std::string_view text, std::string& out);
  // The text ends here, and a stop string that had begun is text.
  void finish(std::string& out);

  bool is_stopped() const { return is_stopped_; }
  const std::string& stopped_by() const { return stopped_by_; }

 private:
  std::vector<std::string> stops_;
  bool keeps_stop_;
  std::string held_;
  bool is_stopped_ = false;
  std::string stopped_by_;
};

}  // namespace cachalot::api
