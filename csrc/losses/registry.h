// Every loss that has a functor: X(name in Python, class template).
#pragma once

#include "dice.h"
#include "focal.h"
#include "zlpr.h"

#define MLLOSS_FOR_EACH_LOSS(X)  \
  X(zlpr, Zlpr)                  \
  X(sigmoid_focal, SigmoidFocal) \
  X(dice, Dice)
