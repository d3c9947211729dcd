// Every sum of losses that CUDA kernels are built for: X(its losses' names, sorted; class template). On the CPU any
// sum runs in one pass (cpu/compound.h), and so it does by Triton.
#pragma once

#define MLLOSS_FOR_EACH_COMPOUND(X)                 \
  X("bce_with_logits+dice", BceAndDice)             \
  X("dice+sigmoid_focal", DiceAndFocal)             \
  X("dice+sigmoid_focal+zlpr", DiceAndFocalAndZlpr) \
  X("dice+zlpr", DiceAndZlpr)                       \
  X("sigmoid_focal+zlpr", FocalAndZlpr)
