// What the disk alone has of a text comes into memory by turns: the disk's thread looks up how far
// it reaches, the owner finds room, the thread reads, the owner takes it in. Where something fails,
// the search begins again with less.
#include <algorithm>
#include <cstring>
#include <utility>

#include "cache/boundary_state.h"
#include "cache/prefix_parts.h"
#include "device/gpu.h"

namespace cachalot::cache {

std::unique_ptr<PrefixSearch> PrefixCache::Parts::begin_search(std::span<const int32_t> tokens,
                                                               std::string_view salt) {
  auto search = std::make_unique<PrefixSearch>();
  const auto unit = static_cast<size_t>(layout.block_tokens());
  search->tokens.assign(tokens.begin(), tokens.begin() + tokens.size() / unit * unit);
  BlockKey parent = root_key(identity, salt);
  for (size_t begin = 0; begin < search->tokens.size(); begin += unit) {
    const std::span block = std::span(search->tokens).subspan(begin, unit);
    const BlockKey key = next_key(parent, block);
    search->links.push_back({parent, key, static_cast<int64_t>(begin), block});
    parent = key;
  }
  search->most_links = search->most_state_links = search->links.size();
  look_up(*search);
  return search;
}

bool PrefixCache::Parts::advance(PrefixSearch& search) {
  using Stage = PrefixSearch::Stage;
  while (search.stage != Stage::found && disk->is_done(search.jobs.front().number)) {
    if (search.stage == Stage::reading) {
      place_reads(search);
    } else if (staging_owner == nullptr) {
      search.jobs.clear();
      read(search);
    } else {
      break;
    }
  }
  return search.stage == Stage::found;
}

void PrefixCache::Parts::wait_and_advance(PrefixSearch& search) {
  const bool is_reading = search.stage == PrefixSearch::Stage::reading;
  PrefixSearch& next = is_reading || staging_owner == nullptr ? search : *staging_owner;
  disk->wait_for(next.jobs.front().number);
  advance(next);
}

void PrefixCache::Parts::advance_all() {
  for (auto& [id, search] : searches) advance(*search);
  std::erase_if(searches, [](const auto& entry) {
    return entry.second->is_dropped && entry.second->stage == PrefixSearch::Stage::found;
  });
}

void PrefixCache::Parts::release(PrefixSearch& search) {
  for (std::vector<int32_t>* ids : {&search.filled, &search.held}) {
    for (const int32_t id : *ids) pool.blocks().release(id);
    ids->clear();
  }
}

void PrefixCache::Parts::look_up(PrefixSearch& search) {
  const std::span links = std::span(search.links).first(search.most_links);
  const std::vector<KeptBlock*> known = in_memory(links);
  search.num_matched = std::max(search.num_matched, known.size());
  const bool ends_in_memory = is_zero() || known.empty() || known.back()->state_id >= 0;
  search.stage = PrefixSearch::Stage::found;
  if (disk == nullptr || search.is_dropped || (known.size() == links.size() && ends_in_memory))
    return;
  search.stage = PrefixSearch::Stage::looking_up;
  search.num_known = known.size();
  std::vector<bool> has_state;
  for (const KeptBlock* block : known) has_state.push_back(block->state_id >= 0);
  const auto look = [&search, has_state, zero = is_zero()](DiskStore& store) {
    search.places.clear();
    search.state_place.reset();
    size_t count = search.num_known;
    for (; count < search.most_links; ++count) {
      const auto place = store.find(search.links[count].key, RecordKind::block);
      if (!place) break;
      search.places.push_back(*place);
    }
    search.num_matched = std::max(search.num_matched, count);
    for (; count > 0 && !zero; --count) {
      if (count <= has_state.size() && has_state[count - 1]) break;
      if (count > search.most_state_links) continue;
      search.state_place = store.find(search.links[count - 1].key, RecordKind::state);
      if (search.state_place) break;
    }
    search.num_wanted = count;
  };
  search.jobs.assign(1, {disk->run(look), 0});
}

// Finds room for what is to be read.
void PrefixCache::Parts::read(PrefixSearch& search) {
  const std::span links = std::span(search.links).first(search.num_wanted);
  std::vector<KeptBlock*> known = in_memory(links);
  if (search.is_dropped || (known.size() == links.size() && !search.state_place)) {
    search.stage = PrefixSearch::Stage::found;
    return;
  }
  const size_t num_known = known.size();
  if (num_known < std::min(search.num_known, links.size())) return look_up(search);
  hold(known, search.held);
  const bool has_bytes = layout.block_bytes() > 0;
  search.reads.clear();
  for (size_t i = known.size(); i < links.size() && known.size() == num_known; ++i) {
    if (has_bytes && !(index.make_room(1) && pool.blocks().allocate(1, search.filled).ok())) break;
    ReadRequest& request = search.reads.emplace_back();
    request.expected = header_of(RecordKind::block, links[i]);
    request.place = search.places[i - search.num_known];
    if (has_bytes) {
      request.payload = {pool.blocks().data(search.filled.back()),
                         static_cast<size_t>(layout.block_bytes())};
    }
  }
  search.stage = PrefixSearch::Stage::reading;
  search.state_is_read = false;
  if (known.size() + search.reads.size() < links.size()) {  // as many as there is room for
    search.most_links = known.size() + search.reads.size();
    search.reads.clear();
    return take_read(search);
  }
  if (search.state_place) {
    search.state_header = header_of(RecordKind::state, links.back());
    search.state.resize(static_cast<size_t>(boundary_state_bytes(layout)));
  }
  search.num_begun = search.num_placed = 0;
  if (is_staged()) staging_owner = &search;
  begin_reads(search);
}

// As many as there is room for at a time, in parts: while one is copied to a GPU the next are read.
void PrefixCache::Parts::begin_reads(PrefixSearch& search) {
  const size_t all = search.reads.size();
  const size_t room = is_staged() ? staging.size() / layout.block_bytes() : all;
  const size_t part = is_staged() ? std::max<size_t>(1, room / 4) : all;
  do {
    const size_t first = search.num_begun, count = std::min(part, all - first);
    if (search.is_dropped || first + count - search.num_placed > room) return;
    search.num_begun += count;
    const std::span some = std::span(search.reads).subspan(first, count);
    for (size_t i = 0; is_staged() && i < count; ++i) {
      const auto slot = static_cast<int64_t>((first + i) % room);
      some[i].payload = {staging.data() + slot * layout.block_bytes(),
                         static_cast<size_t>(layout.block_bytes())};
    }
    const auto read = [&search, some, is_last = search.num_begun == all](DiskStore& store) {
      store.read_all(some);
      if (!is_last) return;
      if (search.state_place)
        search.state_is_read = store.read(search.state_header, *search.state_place, search.state);
      store.close_files();
    };
    search.jobs.push_back({disk->run(read), search.num_begun});
  } while (search.num_begun < all);
}

// What the first job has read goes to its blocks.
void PrefixCache::Parts::place_reads(PrefixSearch& search) {
  const size_t end = search.jobs.front().end;
  search.jobs.pop_front();
  if (is_staged() && !search.is_dropped) {
    std::vector<device::Gpu::Copy> copies;
    for (size_t i = search.num_placed; i < end; ++i) {
      if (search.reads[i].is_read)
        copies.push_back({pool.blocks().data(search.filled[i]), search.reads[i].payload.data(),
                          layout.block_bytes()});
    }
    pool.gpu()->copy_all(copies);
  }
  search.num_placed = end;
  if (search.num_begun < search.reads.size()) begin_reads(search);
  if (!search.jobs.empty()) return;
  staging_owner = nullptr;
  take_read(search);
}

void PrefixCache::Parts::take_read(PrefixSearch& search) {
  if (search.is_dropped) {
    search.stage = PrefixSearch::Stage::found;
    return release(search);
  }
  const bool has_bytes = layout.block_bytes() > 0;
  const std::span links = std::span(search.links).first(search.num_wanted);
  // Others may have come beside the ones that were read; those before them have been held, and go
  // where the whole cache is cleared.
  std::vector<KeptBlock*> known = in_memory(links);
  const size_t first = links.size() - search.reads.size();
  size_t read = 0;
  for (; read < search.reads.size() && search.reads[read].is_read; ++read) {
    const Link& link = links[first + read];
    if (first + read < known.size()) continue;
    if (first + read > known.size()) break;
    KeptBlock* block = index.insert(known.empty() ? nullptr : known.back(), link.parent_key,
                                    link.key, link.tokens, has_bytes ? search.filled[read] : -1);
    if (block == nullptr) break;  // two texts with one key
    const RecordPlace& place = search.reads[read].place;
    block->segment = place.segment;
    known.push_back(block);
    ++search.num_blocks_read;
    search.num_bytes_read += place.num_bytes;
  }
  if (!known.empty()) index.mark_used(known.back());
  release(search);
  const bool has_all = known.size() == links.size() && search.most_links >= links.size();
  if (!has_all) {
    search.most_links = std::min(search.most_links, std::max(known.size(), first + read));
    return look_up(search);
  }
  if (search.state_place && !search.state_is_read) {
    search.most_state_links = links.size() - 1;
    return look_up(search);
  }
  search.stage = PrefixSearch::Stage::found;
  if (!search.state_place) return;
  search.num_state_links = links.size();
  search.num_bytes_read += search.state_place->num_bytes;
  KeptBlock* block = known.back();
  if (block->state_id >= 0) return;
  if (std::byte* kept = index.add_state(block); kept != nullptr)
    std::memcpy(kept, search.state.data(), search.state.size());
}

}  // namespace cachalot::cache
