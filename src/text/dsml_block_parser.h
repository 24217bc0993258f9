// The part of the completion parser that reads tool calls: from a block's first tag to its last
// (reference/chat 3.3).
#pragma once

#include <set>
#include <string>

#include "text/completion_recorder.h"
#include "text/detokenizer.h"
#include "text/dsml_arguments.h"
#include "text/dsml_tags.h"

namespace cachalot::text {

// The text that is not yet accounted for. Bytes before `head` are done with; those from `head` to
// `pos` are read but may have to be read again.
struct ParserInput {
  std::string buffer;
  size_t head = 0;
  size_t pos = 0;
  int64_t base = 0;  // of buffer[0] in the completion

  void append(std::string_view delta);
  std::string_view rest() const { return std::string_view(buffer).substr(pos); }
  bool at_end() const { return pos == buffer.size(); }
  int64_t offset(size_t at) const { return base + static_cast<int64_t>(at); }
};

// Reads one block, which begins at input.pos. Until the first call has begun, the block is
// tentative: it may turn out to be text, and then nothing of it was sent and input.head stands
// where it stood. Blocks inside reasoning, blocks in plain tags and calls without a block stay
// tentative longer, since only what is complete is believed there.
class DsmlBlockParser {
 public:
  enum class Start { block, block_in_reasoning, bare_invoke };
  enum class Step {
    more,      // something was read: call again
    starved,   // the text that is there decides nothing more
    closed,    // the block has ended, input.pos is after it
    rejected,  // no block: read it as text
  };

  DsmlBlockParser(ParserInput& input, CompletionRecorder& recorder,
                  const CompletionParserOptions& options);

  // `opening` is the match of the block's open tag (nothing for a bare invoke).
  void begin(Start start, bool is_plain, TagMatch opening);
  Step step();
  // The completion ends while the block is open: closed, or rejected if it is text after all.
  Step finish();

  // After `rejected`: where text begins again, and whether calls of the block before it were sent.
  int64_t rejected_from() const { return tentative_from_; }
  bool was_believed() const { return was_believed_; }

 private:
  enum class State { between, invoke, body, json_body, value, recover };
  struct Call {
    std::string name;
    bool is_started = false;
    size_t num_parameters = 0;
    std::string raw;
    int64_t begin = 0;
    std::set<std::string> keys;
    ParameterSchema schema{nullptr};
    bool is_offered = false;
  };
  struct Parameter {
    std::string key;
    std::optional<bool> is_string;
    bool streams = false;  // sent as it comes; otherwise collected in `value`
    bool may_wrap = false;
    std::string value;
    Utf8Stream utf8;
  };

  Step step_between();
  Step step_invoke();
  Step step_body();
  Step step_json_body();
  Step step_value();
  Step step_recover();

  // Moves input.pos on; the bytes go to the call that is open, else to a span of this kind.
  void advance(size_t length, ParserSpan::Kind kind = ParserSpan::Kind::marker);
  // White space up to the next tag; false if the text ends in it.
  bool skip_space();
  void check_space(std::string_view expected, std::string_view also = {});
  void note_variant(bool is_variant);
  TagMatch match_other_start() const;

  void begin_tentative();
  void commit();
  void believe();  // the block is one: commit what is tentative, unless more must come first
  void start_call();
  void begin_parameter(OpenTag tag);
  void value_text(std::string_view text);
  void end_parameter();
  void send_parameter(const std::string& key, std::string_view json);
  void send_key(const std::string& key);
  void settle_wrapped(bool is_last);
  Step end_call();
  void break_call(Deviation why);
  Step violation();
  Step close_block();

  ParserInput& input_;
  CompletionRecorder& recorder_;
  const CompletionParserOptions& options_;
  const DsmlTags dsml_tags_;
  const DsmlTags plain_tags_;

  Start start_ = Start::block;
  bool is_plain_ = false;
  const DsmlTags* tags_ = nullptr;
  State state_ = State::between;
  bool in_call_ = false;
  bool had_call_ = false;
  bool saw_variant_ = false;
  bool was_believed_ = false;
  int64_t tentative_from_ = 0;
  std::string space_;  // white space before the tag that comes next
  Call call_;
  Parameter parameter_;
  bool has_wrapped_ = false;  // parameter_ waits to be unwrapped
};

}  // namespace cachalot::text
