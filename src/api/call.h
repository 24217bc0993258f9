// One client's call without sockets: what it asks of the engine, and the bytes that it answers.
//
// Use      submit take_requests(); give every event of theirs to take(), each request's in order;
//          cancel the requests that wants_cancel() names; go on giving events until is_done().
//          A call that streams appends its bytes to `out`; any other appends nothing and has its
//          answer() once it is done.
// Errors   A request that the engine refuses goes to refuse(). A call that streams tells an error
//          as an event; while nothing was sent yet, failure() is there to answer with instead.
// Threads  One at a time. The masks inside the requests are the engine's thread's.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/http_message.h"
#include "api/usage.h"
#include "engine/request.h"

namespace cachalot::api {

// engine::Event, copied from the engine's thread.
struct AnswerEvent {
  engine::Event::Kind kind;
  int64_t answer = 0;
  int64_t done_tokens = 0;
  int64_t total_tokens = 0;
  int32_t token = -1;
  double logprob = 0;
  double model_logprob = 0;
  std::vector<ops::TokenLogprob> top;
  std::optional<Result<engine::Completion>> result;

  static AnswerEvent copy_of(const engine::Event& event);
};

class Call {
 public:
  virtual ~Call() = default;

  // Once. on_event is the server's to set, as are priority and deadline.
  virtual std::vector<engine::Request> take_requests() = 0;
  virtual bool streams() const = 0;
  // Headers of the answer beside the content type.
  virtual const std::vector<HttpHeader>& headers() const = 0;

  // What a stream may begin with before anything came of the requests; may be nothing.
  virtual void head(std::string& out) = 0;
  virtual void take(size_t request, const AnswerEvent& event, std::string& out) = 0;
  virtual void refuse(size_t request, const Status& status, std::string& out) = 0;
  // The client needs no more of the request.
  virtual bool wants_cancel(size_t request) const = 0;
  // Nothing more will be appended; events that still come change nothing.
  virtual bool is_done() const = 0;
  // For a stream in which nothing happens: resets the idle timers of this API's clients.
  virtual std::string keep_alive() = 0;

  // Of a call that is done and does not stream: the whole, or its error.
  virtual HttpAnswer answer() = 0;
  // The error that ended the call, if one did.
  virtual std::optional<HttpAnswer> failure() const = 0;
  virtual Usage usage() const = 0;
};

}  // namespace cachalot::api
