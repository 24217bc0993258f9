#include "data/jsonl_writer.h"

#include <fmt/format.h>
#include <zstd.h>

#include "base/check.h"

namespace cachalot::data {
namespace {
constexpr int kLevel = 12;
}

void JsonlWriter::Free::operator()(ZSTD_CCtx_s* context) const { ZSTD_freeCCtx(context); }

JsonlWriter::JsonlWriter(AtomicFile file)
    : file_(std::move(file)), context_(ZSTD_createCCtx()), buffer_(ZSTD_CStreamOutSize()) {
  CACHALOT_CHECK(context_ != nullptr);
  ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, kLevel);
  ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_checksumFlag, 1);
}

Result<JsonlWriter> JsonlWriter::create(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  return JsonlWriter(std::move(file));
}

Status JsonlWriter::compress(std::string_view text, bool last) {
  ZSTD_inBuffer in{text.data(), text.size(), 0};
  while (true) {
    ZSTD_outBuffer out{buffer_.data(), buffer_.size(), 0};
    const size_t left =
        ZSTD_compressStream2(context_.get(), &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
    if (ZSTD_isError(left) != 0)
      return resource_exhausted(fmt::format("zstd: {}", ZSTD_getErrorName(left)));
    CACHALOT_RETURN_IF_ERROR(file_.write(std::as_bytes(std::span(buffer_.data(), out.pos))));
    if (last ? left == 0 : in.pos == in.size) return {};
  }
}

Status JsonlWriter::write(std::string_view line) {
  bytes_ += static_cast<int64_t>(line.size()) + 1;
  CACHALOT_RETURN_IF_ERROR(compress(line, false));
  return compress("\n", false);
}

Status JsonlWriter::finish() {
  CACHALOT_RETURN_IF_ERROR(compress({}, true));
  return file_.commit();
}

}  // namespace cachalot::data
