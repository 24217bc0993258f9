// What a completion parser has found: events for the client, and the account of every byte.
// Findings can be tentative, as long as later text may show that a stretch is no tool call after
// all.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/completion_parser.h"

namespace cachalot::text {

class CompletionRecorder {
 public:
  explicit CompletionRecorder(std::function<std::string()> new_call_id)
      : new_call_id_(std::move(new_call_id)) {}

  void send_to(std::vector<CompletionEvent>* events) { sink_ = events; }

  // Text of [begin, begin + size) of the completion; never while tentative.
  void reasoning(std::string_view text, int64_t begin);
  void content(std::string_view text, int64_t begin);

  void span(ParserSpan::Kind kind, int64_t begin, int64_t end, int call_idx = -1);
  void report(Deviation what, int64_t offset, std::string detail = {});

  // The index that the next call gets; spans may carry it before the call starts.
  int next_call() const { return static_cast<int>(calls_.size()); }
  void start_call(const std::string& name);
  void arguments(std::string_view fragment);
  void end_call(bool complete, std::string raw);
  // The spans of a call that never started.
  void discard_next_call();

  // From here on, findings wait for commit or vanish with abort.
  void begin_tentative();
  void commit();
  void abort();
  bool tentative() const { return tentative_; }

  const std::string& reasoning() const { return reasoning_; }
  const std::string& content() const { return content_; }
  const std::vector<ParsedCall>& calls() const { return calls_; }
  const std::vector<ParserSpan>& spans() const { return spans_; }
  const std::vector<ParserReport>& reports() const { return reports_; }

 private:
  void send(CompletionEvent event);

  std::function<std::string()> new_call_id_;
  std::vector<CompletionEvent>* sink_ = nullptr;
  std::string reasoning_;
  std::string content_;
  std::vector<ParsedCall> calls_;
  std::vector<ParserSpan> spans_;
  std::vector<ParserReport> reports_;

  bool tentative_ = false;
  std::vector<CompletionEvent> waiting_;
  size_t num_calls_ = 0;  // before the tentative stretch
  size_t num_spans_ = 0;
  size_t num_reports_ = 0;
};

}  // namespace cachalot::text
