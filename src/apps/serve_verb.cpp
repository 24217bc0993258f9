// cachalot serve: a model on a port.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <memory>

#include "apps/command_line.h"
#include "apps/run_options.h"
#include "apps/verbs.h"
#include "base/file.h"
#include "base/log.h"
#include "cache/block_pool.h"
#include "server/page_files.h"
#include "server/server.h"
#include "text/prompt_ids.h"

namespace cachalot::apps {
namespace {

// As many as fit beside the cache of most models; a state takes a few MiB.
constexpr int64_t kMaxSequences = 64;

struct ServeOptions {
  RunOptions run;
  server::ServerOptions server;
  std::string keys_file;
  std::string name;  // empty: that of the model's directory
  std::vector<std::string> aliases;
  std::string family;
  std::string forced_calls_file;
};

std::string model_name(const ServeOptions& options) {
  if (!options.name.empty()) return options.name;
  std::error_code error;
  const std::filesystem::path path = std::filesystem::weakly_canonical(options.run.model, error);
  return path.filename().empty() ? path.parent_path().filename() : path.filename();
}

// What one sequence can have: the engine's context, or what the cache holds. A prompt beyond it is
// refused as too long for the context, which clients know what to do about.
Result<int64_t> context_tokens(const engine::Engine& engine, const RunOptions& options) {
  const int64_t context = engine.max_context_tokens();
  const cache::CacheLayout& layout = engine.cache_layout();
  if (layout.block_bytes() == 0) return context;
  CACHALOT_ASSIGN_OR_RETURN(
      const cache::PoolLimits limits,
      cache::limits_for_bytes(layout, static_cast<int64_t>(options.cache_gb * (int64_t{1} << 30)),
                              options.max_sequences));
  const int64_t held = limits.max_blocks * layout.block_tokens();
  if (held >= context) return context;
  log_warning(fmt::format("the cache holds {} tokens, fewer than the context of {} (--cache-gb)",
                          held, context));
  return held;
}

// Holds what a ServedModel borrows.
struct OwnedModel {
  std::unique_ptr<text::Tokenizer> tokenizer;
  std::unique_ptr<api::ServedModel> model;
};

Result<server::ServedEngine> open_model(const ServeOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(Session session, open_session(options.run, true));
  CACHALOT_ASSIGN_OR_RETURN(const ChatDefaults defaults, chat_defaults(options.run.model));
  api::ServedModelOptions served;
  served.name = model_name(options);
  served.aliases = options.aliases;
  CACHALOT_ASSIGN_OR_RETURN(served.family, text::prompt_family(*session.tokenizer, options.family));
  CACHALOT_ASSIGN_OR_RETURN(served.context_tokens, context_tokens(*session.engine, options.run));
  served.vocab_size = session.engine->config().vocab_size;
  served.bos_token = static_cast<int32_t>(session.engine->config().bos_token_id);
  served.stop_tokens = session.stop_tokens;
  CACHALOT_ASSIGN_OR_RETURN(served.sampling, sampling_params(options.run, 0));
  served.effort = defaults.effort;
  served.max_tokens = defaults.max_tokens;
  served.num_drafts = options.run.drafts;
  if (const std::string& path = options.forced_calls_file; !path.empty()) {
    CACHALOT_ASSIGN_OR_RETURN(const std::string lines, read_text_file(path));
    CACHALOT_ASSIGN_OR_RETURN(served.forced_calls, api::ForcedCalls::parse(lines, path));
  }
  served.created = std::time(nullptr);
  auto owned = std::make_shared<OwnedModel>();
  owned->tokenizer = std::move(session.tokenizer);
  CACHALOT_ASSIGN_OR_RETURN(owned->model,
                            api::ServedModel::create(std::move(served), *owned->tokenizer));
  log_info(fmt::format("{}: {} precision, context {} tokens, loaded in {:.1f} s", options.run.model,
                       session.precision, owned->model->options().context_tokens,
                       session.load_seconds));
  return server::ServedEngine{std::move(session.engine),
                              std::shared_ptr<const api::ServedModel>(owned, owned->model.get())};
}

Status serve(ServeOptions& options) {
  if (!options.keys_file.empty()) {
    CACHALOT_ASSIGN_OR_RETURN(options.server.keys, server::ApiKeys::load(options.keys_file));
  }
  options.server.files = server::page_files();
  const std::string host = options.server.host;
  const bool has_keys = !options.server.keys.empty();
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<server::Server> server,
                            server::Server::listen(std::move(options.server)));
  const auto on_ready = [&] {
    const bool is_v6 = host.find(':') != std::string::npos;
    fmt::print("serving {} at http://{}:{}\n", model_name(options),
               is_v6 ? fmt::format("[{}]", host) : host, server->port());
    std::fflush(stdout);
    if (!has_keys && !server->is_local())
      log_warning("other machines can reach this server, and it asks for no key (--api-keys)");
  };
  return server->run([&] { return open_model(options); }, on_ready, true);
}

}  // namespace

void add_serve_verb(CLI::App& app, int* exit_code) {
  CLI::App* command =
      app.add_subcommand("serve", "answer the APIs of OpenAI and Anthropic on a port");
  set_example(command, "serve models/nano --port 8080");
  auto options = std::make_shared<ServeOptions>();
  options->run.max_sequences = kMaxSequences;
  add_run_options(command, &options->run);

  constexpr const char* kServer = "Server";
  command->add_option("--port", options->server.port, "0: any that is free")
      ->required()
      ->group(kServer);
  command
      ->add_option("--host", options->server.host,
                   "address to listen on; 0.0.0.0: all, for other machines too")
      ->group(kServer);
  command
      ->add_option("--api-keys", options->keys_file,
                   "file of keys, one of which a client must have (docs/serving.md)")
      ->group(kServer);
  command
      ->add_option("--allow-origin", options->server.origins,
                   "page that may call from a browser, as in http://localhost:3000; *: any")
      ->group(kServer);
  command->add_option("--name", options->name, "of the model, for clients (default: its folder's)")
      ->group(kServer);
  command->add_option("--alias", options->aliases, "another name of it")->group(kServer);
  command->add_option("--family", options->family, "prompt format: v4, v4-0731 or v4.1")
      ->group(kServer);
  command
      ->add_option("--sequences", options->run.max_sequences,
                   "answers under way at once; others wait")
      ->check(CLI::Range(1, 65536))
      ->group(kServer);
  command
      ->add_option("--drain", options->server.drain_seconds,
                   "seconds that answers under way have to end in when the server stops")
      ->check(CLI::Range(0.0, 1e6))
      ->group(kServer);
  // Of the project's tests: not shown.
  command->add_option("--force-calls", options->forced_calls_file, "answers, one a line as JSON")
      ->group("");
  command->callback([options, exit_code] { *exit_code = exit_code_of(serve(*options)); });
}

}  // namespace cachalot::apps
