#pragma once

namespace CLI {
class App;
}

namespace cachalot::apps {

// Adds `build` to the data verb.
void add_data_build_verb(CLI::App& data_verb, int* exit_code);

}  // namespace cachalot::apps
