// cachalot data: from text and tasks to the shards that `train` reads.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <memory>
#include <string>

#include "apps/command_line.h"
#include "apps/data_build_verb.h"
#include "apps/model_argument.h"
#include "apps/run_options.h"
#include "apps/verbs.h"
#include "base/file.h"
#include "base/python_json.h"
#include "base/rng.h"
#include "data/fim.h"
#include "data/split_text.h"
#include "data/streams.h"
#include "data/tasks/task_document.h"
#include "data/text_files.h"
#include "data/token_shard.h"
#include "data/tokenize_corpus.h"
#include "text/bpe_trainer.h"
#include "text/chat_literals.h"

namespace cachalot::apps {
namespace {

constexpr char kTextsHelp[] =
    "files (text or JSON, plain, gzip or zstd), folders with all below, patterns such as "
    "'texts/**/*.md'";
constexpr double kHoldOut = 0.01;

struct TokenizerOptions {
  std::vector<std::string> files;
  int64_t vocab_size = 4096;
  std::string out;
  data::TextOptions text;
};

void report_skipped(const data::SkippedLines& skipped) {
  if (skipped.count == 0) return;
  fmt::print(stderr, "{} bad lines skipped:\n", skipped.count);
  for (const std::string& reason : skipped.reasons) fmt::print(stderr, "  {}\n", reason);
  if (skipped.count > static_cast<int64_t>(skipped.reasons.size())) fmt::print(stderr, "  ...\n");
}

void report_passed_over(const data::TextFiles& files) {
  if (files.num_passed_over == 0) return;
  fmt::print("{} files passed over that hold no text{}\n", files.num_passed_over,
             files.reasons.empty() ? "" : "; of JSON the first:");
  for (const std::string& reason : files.reasons) fmt::print("  {}\n", reason);
}

Status train_tokenizer(const TokenizerOptions& options) {
  text::BpeTrainer trainer;
  CACHALOT_ASSIGN_OR_RETURN(data::TextFiles files,
                            data::find_text_files(options.files, options.text.documents));
  CACHALOT_ASSIGN_OR_RETURN(data::TextDocuments documents,
                            data::TextDocuments::open(std::move(files.paths), options.text));
  while (true) {
    CACHALOT_ASSIGN_OR_RETURN(const std::optional<data::TextPiece> piece, documents.next());
    if (!piece) break;
    trainer.add(piece->text);
  }
  if (trainer.num_pieces() == 0) return data::no_documents(options.files, documents.skipped());
  report_skipped(documents.skipped());
  CACHALOT_ASSIGN_OR_RETURN(const text::TokenizerSpec spec, trainer.train(options.vocab_size));
  const std::string json = text::tokenizer_json(spec);
  // What is written is read again first: a vocabulary that does not load is no result.
  CACHALOT_ASSIGN_OR_RETURN(const text::Tokenizer tokenizer,
                            text::Tokenizer::from_json(json, options.out));
  CACHALOT_RETURN_IF_ERROR(write_file_atomically(options.out, json));
  fmt::print("{}: {} tokens, {} merges, {} control tokens, from {} distinct pieces\n", options.out,
             tokenizer.vocab_size(), spec.merges.size(), spec.added_tokens.size(),
             trainer.num_pieces());
  report_passed_over(files);
  return {};
}

struct TokenizeCorpusOptions {
  std::vector<std::string> files;
  std::string tokenizer;
  std::string out;
  bool bos = true;
  bool eos = true;
  data::TokenizeOptions options;
};

void print_corpus(const std::string& prefix, const data::CorpusSummary& corpus) {
  fmt::print("{}.json: {} documents, {} tokens, {} bytes of text ({:.3f} a token), {} shards\n",
             prefix, corpus.num_documents, corpus.num_tokens, corpus.text_bytes,
             static_cast<double>(corpus.text_bytes) /
                 static_cast<double>(std::max<int64_t>(1, corpus.num_tokens)),
             corpus.shards.size());
}

Result<int32_t> control_id(const text::Tokenizer& tokenizer, std::string_view token,
                           std::string_view option) {
  for (const text::AddedToken& added : tokenizer.added_tokens()) {
    if (added.content == token) return added.id;
  }
  return invalid_argument(fmt::format(
      "tokenizer: expected a control token {} (or --no-{}), found none", token, option));
}

Status tokenize_files(TokenizeCorpusOptions options) {
  CACHALOT_ASSIGN_OR_RETURN(const text::Tokenizer tokenizer, open_tokenizer(options.tokenizer));
  if (options.bos) {
    CACHALOT_ASSIGN_OR_RETURN(options.options.bos_id, control_id(tokenizer, text::kBos, "bos"));
  }
  if (options.eos) {
    CACHALOT_ASSIGN_OR_RETURN(options.options.eos_id, control_id(tokenizer, text::kEos, "eos"));
  }
  if (options.options.fim_rate > 0) {
    CACHALOT_ASSIGN_OR_RETURN(options.options.fim_tokens, data::fim_tokens(tokenizer));
  }
  CACHALOT_ASSIGN_OR_RETURN(const data::TextFiles files,
                            data::find_text_files(options.files, options.options.text.documents));
  ThreadPool threads;
  CACHALOT_ASSIGN_OR_RETURN(
      const data::TokenizedCorpus corpus,
      data::tokenize_corpus(tokenizer, files.paths, options.out, options.options, threads));
  report_skipped(corpus.skipped);
  print_corpus(options.out, corpus.training);
  if (options.options.text.hold_out > 0) print_corpus(options.out + "-heldout", corpus.held_out);
  if (corpus.num_repeated > 0)
    fmt::print("{} documents left out that had come before\n", corpus.num_repeated);
  report_passed_over(files);
  return {};
}

struct TasksOptions {
  std::string tokenizer;
  std::string out;
  std::vector<std::string> families;  // empty: all
  int64_t count = 10000;
  int min_difficulty = 0;
  int max_difficulty = 3;
  uint64_t seed = 0;
  double reasoning_share = 0.5;
  std::string chat = "v4";
  std::vector<std::string> efforts;  // of rows of jsonl
  bool texts = false;
};

// The index-th task, and its own draws.
data::Task drawn_task(const TasksOptions& options, std::span<const data::TaskFamily> families,
                      uint64_t index, RngStream& rng) {
  const int levels = options.max_difficulty - options.min_difficulty + 1;
  const int difficulty =
      options.min_difficulty + static_cast<int>(rng.next_u32() % static_cast<uint32_t>(levels));
  return data::make_task(families[index % families.size()], difficulty, options.seed, index);
}

// What `cachalot sft` reads; or whole texts, for `cachalot data tokenizer`.
Status write_conversations(const TasksOptions& options,
                           std::span<const data::TaskFamily> families) {
  CACHALOT_ASSIGN_OR_RETURN(const text::PromptFamily chat, text::parse_prompt_family(options.chat));
  std::string rows;
  for (int64_t i = 0; i < options.count; ++i) {
    const auto index = static_cast<uint64_t>(i);
    RngStream rng(options.seed, RngPurpose::data, index);
    const data::Task task = drawn_task(options, families, index, rng);
    const std::string& effort = options.efforts[rng.next_u32() % options.efforts.size()];
    json::object row;
    if (options.texts) {
      CACHALOT_ASSIGN_OR_RETURN(const std::string text, data::task_text(task, chat, effort));
      row["text"] = text;
    } else {
      row = data::task_conversation(task, effort);
    }
    rows += python_json(row) + "\n";
  }
  CACHALOT_RETURN_IF_ERROR(write_file_atomically(options.out, rows));
  fmt::print("{}: {} {}\n", options.out, options.count, options.texts ? "texts" : "conversations");
  return {};
}

Status write_tasks(const TasksOptions& options) {
  std::vector<data::TaskFamily> families;
  for (const std::string& name : options.families) {
    const std::optional<data::TaskFamily> family = data::parse_task_family(name);
    if (!family) {
      std::vector<std::string_view> known;
      for (const data::TaskFamily f : data::task_families())
        known.push_back(data::task_family_name(f));
      return invalid_argument(fmt::format("--families: expected some of {}, found \"{}\"",
                                          fmt::join(known, ", "), name));
    }
    families.push_back(*family);
  }
  if (families.empty()) families.assign(data::task_families().begin(), data::task_families().end());
  if (options.min_difficulty > options.max_difficulty) {
    return invalid_argument(fmt::format("--max-difficulty: expected at least {}, found {}",
                                        options.min_difficulty, options.max_difficulty));
  }
  if (!options.efforts.empty()) return write_conversations(options, families);
  if (options.tokenizer.empty()) {
    return invalid_argument(
        "data tasks: expected --tokenizer, or --conversations with efforts, found neither");
  }
  CACHALOT_ASSIGN_OR_RETURN(const text::Tokenizer tokenizer, open_tokenizer(options.tokenizer));
  CACHALOT_ASSIGN_OR_RETURN(const text::PromptFamily chat, text::parse_prompt_family(options.chat));
  CACHALOT_ASSIGN_OR_RETURN(data::TokenShardWriter writer,
                            data::TokenShardWriter::create(options.out, tokenizer.vocab_size(),
                                                           data::tokenizer_fingerprint(tokenizer)));
  for (int64_t i = 0; i < options.count; ++i) {
    const auto index = static_cast<uint64_t>(i);
    RngStream rng(options.seed, RngPurpose::data, index);
    const data::Task task = drawn_task(options, families, index, rng);
    CACHALOT_ASSIGN_OR_RETURN(
        const std::vector<int32_t> ids,
        data::task_document(tokenizer, task, chat, rng.next_unit() < options.reasoning_share));
    CACHALOT_RETURN_IF_ERROR(writer.add_document(ids));
  }
  const int64_t num_tokens = writer.num_tokens();
  CACHALOT_ASSIGN_OR_RETURN(const uint64_t fingerprint, writer.finish());
  fmt::print("{}: {} tasks, {} tokens, fingerprint {:016x}\n", options.out, options.count,
             num_tokens, fingerprint);
  return {};
}

void add_documents_options(CLI::App* command, data::DocumentOptions* documents) {
  using Format = data::DocumentOptions::Format;
  static const std::map<std::string, Format> kFormats = {{"auto", Format::by_content},
                                                         {"text", Format::text},
                                                         {"jsonl", Format::jsonl},
                                                         {"json", Format::json}};
  command
      ->add_option("--format", documents->format,
                   "auto (what the files hold), text, jsonl (an object a line) or json")
      ->transform(choice(kFormats));
  command->add_option("--text-field", documents->text_field,
                      "JSON: the member that holds the text");
  command->add_flag("--skip-bad-lines", documents->skip_bad_lines,
                    "JSON: pass over lines without such a text; they are counted and named");
  command->add_flag("--split-on-blank-lines", documents->split_on_blank_lines,
                    "plain text: a document ends at a blank line");
}

}  // namespace

void add_data_verb(CLI::App& app, int* exit_code) {
  CLI::App* data_verb =
      app.add_subcommand("data", "vocabularies, token shards and tasks for training");
  data_verb->require_subcommand(1);
  set_example(data_verb, "data tokenize my-texts --tokenizer models/nano --out corpus/text");
  add_data_build_verb(*data_verb, exit_code);

  auto tokenizer = std::make_shared<TokenizerOptions>();
  CLI::App* command = data_verb->add_subcommand(
      "tokenizer", "learn a BPE vocabulary with V4's splits and control tokens");
  set_example(command, "data tokenizer my-texts --vocab-size 4096 --out corpus/tokenizer.json");
  command->add_option("files", tokenizer->files, kTextsHelp)->required();
  command->add_option("--vocab-size", tokenizer->vocab_size, "ids in all");
  command->add_option("--out", tokenizer->out, "tokenizer.json to write")->required();
  add_documents_options(command, &tokenizer->text.documents);
  command->callback(
      [tokenizer, exit_code] { *exit_code = exit_code_of(train_tokenizer(*tokenizer)); });

  auto tokenize = std::make_shared<TokenizeCorpusOptions>();
  tokenize->options.text.max_piece_bytes = data::kPieceBytes;
  tokenize->options.text.hold_out = kHoldOut;
  command = data_verb->add_subcommand("tokenize", "texts to the token shards that train reads");
  set_example(command,
              "data tokenize my-texts --tokenizer corpus/tokenizer.json --out corpus/text");
  command->add_option("files", tokenize->files, kTextsHelp)->required();
  add_model_option(command, "--tokenizer", &tokenize->tokenizer, "tokenizer.json or its directory")
      ->required();
  command->add_option("--out", tokenize->out, "prefix: PREFIX.json and PREFIX-00000.tokens ...")
      ->required();
  command
      ->add_option("--cut", tokenize->options.text.max_piece_bytes,
                   "longer documents become several of at most this many bytes, cut at a blank "
                   "line or a line's end (0: never)")
      ->check(at_least(0));
  command
      ->add_option("--hold-out", tokenize->options.text.hold_out,
                   "share of the text that goes to PREFIX-heldout.json instead: whole documents, "
                   "or, of few, their last lines; texts that come again are left out (0: none)")
      ->check(CLI::Range(0.0, 0.5));
  command->add_flag("--bos,!--no-bos", tokenize->bos, "a begin token before each document");
  command->add_flag("--eos,!--no-eos", tokenize->eos, "an end token after each document");
  command->add_option("--fim-rate", tokenize->options.fim_rate, "share of fill-in-the-middle");
  command->add_option("--split-glued-rate", tokenize->options.split_glued_rate,
                      "share of glued punctuation tokens that are split");
  command->add_option("--seed", tokenize->options.seed, "of both");
  add_documents_options(command, &tokenize->options.text.documents);
  command->callback(
      [tokenize, exit_code] { *exit_code = exit_code_of(tokenize_files(*tokenize)); });

  auto tasks = std::make_shared<TasksOptions>();
  command = data_verb->add_subcommand(
      "tasks", "verifiable tasks with answers, as a token shard or as conversations");
  set_example(command, "data tasks --tokenizer models/nano --out corpus/tasks.tokens --count 1000");
  add_model_option(command, "--tokenizer", &tasks->tokenizer, "tokenizer.json or its directory");
  command->add_option("--out", tasks->out, "FILE.tokens or FILE.jsonl to write")->required();
  command
      ->add_option("--conversations", tasks->efforts,
                   "write rows of jsonl for `sft` instead, each answered at one of these efforts: "
                   "none, high (with the way to the answer), max (which goes it twice)")
      ->delimiter(',')
      ->check(CLI::IsMember({"none", "high", "max"}));
  command->add_flag("--texts", tasks->texts,
                    "of --conversations: whole texts, control tokens too, for `data tokenizer`");
  command->add_option("--families", tasks->families, "a,b,c (default: all)")->delimiter(',');
  command->add_option("--count", tasks->count, "tasks")->check(at_least(1));
  command->add_option("--min-difficulty", tasks->min_difficulty, "the easiest, from 0")
      ->check(CLI::Range(0, data::kMaxDifficulty));
  command->add_option("--max-difficulty", tasks->max_difficulty, "the hardest")
      ->check(CLI::Range(0, data::kMaxDifficulty));
  command->add_option("--seed", tasks->seed, "other tasks");
  command->add_option("--reasoning-share", tasks->reasoning_share, "of those that tell a way")
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--chat", tasks->chat, "prompt family: v4, v4-0731 or v4.1");
  command->callback([tasks, exit_code] { *exit_code = exit_code_of(write_tasks(*tasks)); });
}

}  // namespace cachalot::apps
