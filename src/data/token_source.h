// Documents of token ids that lie somewhere, addressable at random: what packing and the data
// loader draw from. Implementations: token_shard.h (our own files), nanogpt_source.h,
// megatron_source.h.
// Threads  Immutable once open; concurrent calls are safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"

namespace cachalot::data {

class TokenSource {
 public:
  virtual ~TokenSource() = default;

  // Names the source in errors: the path it was opened from.
  virtual const std::string& name() const = 0;
  virtual int64_t num_documents() const = 0;
  virtual int64_t num_tokens() const = 0;
  // Ids read are below this.
  virtual int64_t vocab_size() const = 0;
  // May be 0. `document` in [0, num_documents()).
  virtual int64_t document_length(int64_t document) const = 0;
  // Tokens [begin, begin + out.size()) of the document; the range must lie inside it. An id that is
  // not in [0, vocab_size()) is data_loss: files of others are not scanned when they are opened.
  virtual Status read(int64_t document, int64_t begin, std::span<int32_t> out) const = 0;
  // Whether tokens have loss weights of their own; without, each weighs 1.
  virtual bool has_weights() const { return false; }
  // What tokens [begin, begin + out.size()) of the document weigh as targets: finite, 0 or more; 0:
  // the token is read, and not learnt.
  virtual Status read_weights(int64_t document, int64_t begin, std::span<float> out) const;
  // Changes when the documents' number or lengths do, or any token. A cursor into a changed source
  // would silently give other data; the loader compares this.
  virtual uint64_t fingerprint() const = 0;
  // Of the tokenizer that made the ids (tokenize_corpus.h); 0: not known.
  virtual uint64_t tokenizer_fingerprint() const { return 0; }
};

}  // namespace cachalot::data
