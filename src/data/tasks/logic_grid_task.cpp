#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "data/tasks/task_parts.h"

namespace cachalot::data {
namespace {

// What the people of a grid differ in. Category 0 is the people themselves.
struct Category {
  std::string name;
  std::vector<std::string> items;
  // What stands before an item: "Ana has the cat", "Ana does not have the cat", "The one with the
  // cat".
  std::string has, has_not, the_one;
};

constexpr size_t kMaxPeople = 5;
constexpr size_t kMaxCategories = 3;

// Whose each item is: owners[category][item] is a person. Category 0 is 0, 1, 2, ..
using Owners = std::array<uint8_t, kMaxPeople>;
using Grid = std::array<Owners, kMaxCategories>;

// Two items of different categories are of one person, or are not.
struct Clue {
  size_t category, item, other_category, other_item;
  bool same;
  bool holds(const Grid& owners) const {
    return (owners[category][item] == owners[other_category][other_item]) == same;
  }
};

std::vector<Category> draw_categories(Draw& draw, size_t num_people, size_t num_kinds) {
  std::vector<Category> categories = {
      {.name = "person",
       .items = {"Ana", "Ben", "Carl", "Dora", "Eva", "Finn", "Gus", "Hana", "Ida", "Jon"},
       .has = "",
       .has_not = "",
       .the_one = ""},
      {.name = "pet",
       .items = {"cat", "dog", "fish", "owl", "hen", "goat", "duck", "pony", "frog", "mouse"},
       .has = "has the ",
       .has_not = "does not have the ",
       .the_one = "The one with the "},
      {.name = "drink",
       .items = {"tea", "milk", "juice", "water", "cocoa", "coffee", "cider", "soup", "tonic",
                 "malt"},
       .has = "drinks ",
       .has_not = "does not drink ",
       .the_one = "The one who drinks "}};
  categories.resize(1 + num_kinds);
  for (Category& category : categories) {
    draw.shuffle(category.items);
    category.items.resize(num_people);
  }
  return categories;
}

// Every grid of so many people and categories.
std::vector<Grid> all_grids(size_t num_people, size_t num_categories) {
  Owners first = {};
  std::iota(first.begin(), first.end(), uint8_t{0});
  std::vector<Grid> grids = {{first}};
  for (size_t category = 1; category < num_categories; ++category) {
    std::vector<Grid> longer;
    for (Grid grid : grids) {
      grid[category] = first;
      do {
        longer.push_back(grid);
      } while (
          std::next_permutation(grid[category].begin(),
                                grid[category].begin() + static_cast<std::ptrdiff_t>(num_people)));
    }
    grids = std::move(longer);
  }
  return grids;
}

// What is true of the grid, in a drawn order: all of which items are not of one person, which
// determines it, and one in `rarity` of which are.
std::vector<Clue> draw_clues(Draw& draw, const Grid& owners, size_t num_people,
                             size_t num_categories, int64_t rarity) {
  std::vector<Clue> clues;
  for (size_t a = 0; a < num_categories; ++a) {
    for (size_t b = a + 1; b < num_categories; ++b) {
      for (size_t i = 0; i < num_people; ++i) {
        for (size_t j = 0; j < num_people; ++j) {
          const bool same = owners[a][i] == owners[b][j];
          if (!same || draw.between(1, rarity) == 1) clues.push_back({a, i, b, j, same});
        }
      }
    }
  }
  draw.shuffle(clues);
  return clues;
}

// Those that leave one grid alone, none of them superfluous.
std::vector<Clue> needed_clues(const std::vector<Clue>& clues, const std::vector<Grid>& grids) {
  std::vector<Clue> needed;
  std::vector<Grid> left = grids;
  for (const Clue& clue : clues) {
    if (std::erase_if(left, [&](const Grid& grid) { return !clue.holds(grid); }) > 0)
      needed.push_back(clue);
    if (left.size() == 1) break;
  }
  for (size_t i = needed.size(); i-- > 0;) {
    const auto allows = [&](const Grid& grid) {
      for (size_t k = 0; k < needed.size(); ++k) {
        if (k != i && !needed[k].holds(grid)) return false;
      }
      return true;
    };
    if (std::count_if(grids.begin(), grids.end(), allows) == 1)
      needed.erase(needed.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return needed;
}

std::string clue_text(const Clue& clue, const std::vector<Category>& categories) {
  const Category& subject = categories[clue.category];
  const Category& object = categories[clue.other_category];
  return fmt::format("{}{} {}{}.", subject.the_one, subject.items[clue.item],
                     clue.same ? object.has : object.has_not, object.items[clue.other_item]);
}
}  // namespace

// 2 + difficulty / 5 people, at most five, who differ in one thing and from 7 on in two. Clues that
// tell directly who has what grow rarer with each step.
Task make_logic_grid(int difficulty, Draw draw) {
  const auto num_people = static_cast<size_t>(std::min<int>(2 + difficulty / 5, kMaxPeople));
  const size_t num_kinds = difficulty >= 7 ? 2 : 1;
  const std::vector<Category> categories = draw_categories(draw, num_people, num_kinds);
  const std::vector<Grid> grids = all_grids(num_people, categories.size());
  const Grid owners =
      grids[static_cast<size_t>(draw.between(0, static_cast<int64_t>(grids.size()) - 1))];
  std::vector<Clue> clues =
      needed_clues(draw_clues(draw, owners, num_people, categories.size(), 2 + difficulty), grids);
  draw.shuffle(clues);

  const Category& asked = categories.back();
  std::vector<std::string> answer(num_people);
  for (size_t item = 0; item < num_people; ++item)
    answer[owners[num_kinds][item]] = asked.items[item];
  const std::string people = joined(categories[0].items, ", ");
  std::vector<std::string> kinds;
  for (size_t kind = 1; kind < categories.size(); ++kind) {
    std::vector<std::string> items = categories[kind].items;
    std::sort(items.begin(), items.end());
    kinds.push_back(fmt::format("a different {} ({})", categories[kind].name, joined(items, ", ")));
  }
  std::string prompt = fmt::format("{} each have {}.", people, joined(kinds, " and "));
  for (const Clue& clue : clues) prompt += " " + clue_text(clue, categories);
  prompt +=
      fmt::format(" List the {}s of {} in this order, separated by commas.", asked.name, people);
  return exact_answer_task(std::move(prompt), {}, joined(answer, ", "));
}

}  // namespace cachalot::data
