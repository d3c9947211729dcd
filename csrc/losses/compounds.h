// Every sum of losses that has CUDA kernels: X(the sorted names of its losses, class template). On the CPU
// (cpu/compound.h) and with Triton, any sum runs in one pass.
#pragma once

#define MLLOSS_FOR_EACH_COMPOUND(X)                 \
  X("bce_with_logits+dice", BceAndDice)             \
  X("dice+sigmoid_focal", DiceAndFocal)             \
  X("dice+sigmoid_focal+zlpr", DiceAndFocalAndZlpr) \
  X("dice+zlpr", DiceAndZlpr)                       \
  X("sigmoid_focal+zlpr", FocalAndZlpr)
