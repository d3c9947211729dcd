// All losses that have a functor: X(name in Python, class template).
#pragma once

#include "asymmetric.h"
#include "bce.h"
#include "decoupled_softmax.h"
#include "dice.h"
#include "focal.h"
#include "lsep.h"
#include "margin_bce.h"
#include "multi_positive_cross_entropy.h"
#include "self_adjusting_dice.h"
#include "squared_hinge.h"
#include "symmetric_kl.h"
#include "zlpr.h"

#define MLLOSS_FOR_EACH_LOSS(X)                              \
  X(zlpr, Zlpr)                                              \
  X(sigmoid_focal, SigmoidFocal)                             \
  X(dice, Dice)                                              \
  X(bce_with_logits, Bce)                                    \
  X(margin_bce, MarginBce)                                   \
  X(asymmetric, Asymmetric)                                  \
  X(squared_hinge, SquaredHinge)                             \
  X(lsep, Lsep)                                              \
  X(multi_positive_cross_entropy, MultiPositiveCrossEntropy) \
  X(self_adjusting_dice, SelfAdjustingDice)                  \
  X(decoupled_softmax, DecoupledSoftmax)                     \
  X(symmetric_kl, SymmetricKl)
