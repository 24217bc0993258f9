// Pages of a mapped file that have served: they leave the process's memory and stay in the system's
// page cache, from where a later read brings them back.
#pragma once

#include <cstddef>
#include <span>

namespace cachalot {

// The pages that lie wholly in `bytes`, which belong to a MappedFile (file.h): memory of another
// kind would lose what it holds.
void drop_mapped_pages(std::span<const std::byte> bytes);

}  // namespace cachalot
