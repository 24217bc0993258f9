#include "apps/tokenize.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <memory>

#include "apps/command_line.h"
#include "apps/model_argument.h"
#include "apps/run_options.h"
#include "apps/verbs.h"
#include "base/python_json.h"
#include "text/detokenizer.h"

namespace cachalot::apps {
namespace {

Result<std::vector<int32_t>> parse_ids(std::string_view text) {
  constexpr std::string_view kSeparators = " \t\r\n,[]";
  std::vector<int32_t> ids;
  for (size_t at = text.find_first_not_of(kSeparators); at != std::string_view::npos;
       at = text.find_first_not_of(kSeparators, at)) {
    const std::string_view word =
        text.substr(at, std::min(text.find_first_of(kSeparators, at), text.size()) - at);
    int32_t id = 0;
    const auto parsed = std::from_chars(word.data(), word.data() + word.size(), id);
    if (parsed.ec != std::errc() || parsed.ptr != word.data() + word.size()) {
      return invalid_argument(
          fmt::format("token {}: expected an id, found \"{}\"", ids.size(), word.substr(0, 40)));
    }
    ids.push_back(id);
    at += word.size();
  }
  return ids;
}

// A token's bytes as text; half characters show as U+FFFD.
Result<std::string> piece_text(const text::Tokenizer& tokenizer, int32_t id) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string_view bytes, tokenizer.token_bytes(id));
  std::string out;
  text::Utf8Stream stream;
  stream.push(bytes, out);
  stream.finish(out);
  return out;
}

}  // namespace

Result<std::string> tokenize(const TokenizeOptions& options) {
  // A folder with a tokenizer alone is enough.
  std::error_code error;
  if (!std::filesystem::exists(options.path + "/tokenizer.json", error))
    CACHALOT_RETURN_IF_ERROR(check_model_path(options.path));
  CACHALOT_ASSIGN_OR_RETURN(const text::Tokenizer tokenizer, open_tokenizer(options.path));
  const std::string input =
      options.text ? *options.text : std::string(std::istreambuf_iterator<char>(std::cin), {});
  std::vector<int32_t> ids;
  std::string text = input;
  if (options.decode) {
    CACHALOT_ASSIGN_OR_RETURN(ids, parse_ids(input));
    CACHALOT_ASSIGN_OR_RETURN(text, tokenizer.decode(ids));
    if (!options.json) return text;
  } else {
    ids = tokenizer.encode(input);
  }
  if (options.ids_only && !options.json) return fmt::format("{}\n", fmt::join(ids, " "));
  std::string lines;
  json::array pieces;
  for (const int32_t id : ids) {
    CACHALOT_ASSIGN_OR_RETURN(const std::string piece, piece_text(tokenizer, id));
    if (options.json) {
      pieces.emplace_back(piece);
    } else {
      lines += fmt::format("{:>7}  {}\n", id, json_quoted(piece));
    }
  }
  if (!options.json) return lines;
  return python_json(json::object{
             {"ids", json::array(ids.begin(), ids.end())}, {"pieces", pieces}, {"text", text}}) +
         "\n";
}

void add_tokenize_verb(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("tokenize", "text to token ids and back");
  set_example(command, "tokenize models/nano --text \"In the beginning\"");
  auto options = std::make_shared<TokenizeOptions>();
  add_model_option(command, "tokenizer", &options->path, "model directory or tokenizer.json")
      ->required();
  command->add_option("--text", options->text,
                      "what to encode or decode (default: standard input)");
  command->add_flag("--decode", options->decode, "the input is token ids; prints their text");
  command->add_flag("--ids", options->ids_only, "only the ids, on one line");
  command->add_flag("--json", options->json, "one JSON object: ids, pieces, text");
  command->callback([options, exit_code] {
    const Result<std::string> text = tokenize(*options);
    if (!text) {
      *exit_code = report_error(text.error());
    } else {
      std::fwrite(text->data(), 1, text->size(), stdout);
    }
  });
}

}  // namespace cachalot::apps
