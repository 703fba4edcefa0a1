// The permission to use tiles, asked of systems that are not there.
#include "cc/core/tile_permission.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

namespace dwsconv {
namespace {

int asked = 0, asked_for = 0;

int Grant(int state) {
  ++asked;
  asked_for = state;
  return 0;
}
int Refuse(int) {
  ++asked;
  return EPERM;
}

TileSystem Willing() { return {true, true, uint64_t{3} << 17 | 0xe7, Grant}; }

TEST(TilePermission, GrantedByASystemThatHasThem) {
  asked = 0;
  EXPECT_EQ(AskForTiles(Willing()), "");
  EXPECT_EQ(asked, 1);
  EXPECT_EQ(asked_for, 18);
}

TEST(TilePermission, NobodyIsAskedWithoutTheHardware) {
  asked = 0;
  for (int lacking = 0; lacking < 4; ++lacking) {
    TileSystem system = Willing();
    if (lacking == 0) system.tiles = false;
    if (lacking == 1) system.bf16 = false;
    if (lacking == 2) system.saved &= ~(uint64_t{1} << 17);
    if (lacking == 3) system.saved &= ~(uint64_t{1} << 18);
    const std::string why = AskForTiles(system);
    EXPECT_EQ(why, lacking < 2 ? "the CPU has no AMX tiles for bfloat16" : "the system does not save AMX tiles");
  }
  EXPECT_EQ(asked, 0);
}

TEST(TilePermission, ARefusalIsNoTiles) {
  TileSystem system = Willing();
  system.request = Refuse;
  EXPECT_EQ(AskForTiles(system), "the system refused AMX tiles: Operation not permitted");
  system.request = nullptr;
  EXPECT_NE(AskForTiles(system), "");
}

// On the CPU that runs the test, whatever it has: an answer, and no death.
TEST(TilePermission, ThisSystemAnswers) {
  const TileSystem system = ThisTileSystem();
  const std::string why = AskForTiles(system);
  EXPECT_TRUE(why.empty() || why.find("AMX") != std::string::npos) << why;
  EXPECT_TRUE(system.tiles || !why.empty());
}

}  // namespace
}  // namespace dwsconv
