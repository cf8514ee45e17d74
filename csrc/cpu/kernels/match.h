// The inner loops of match. Compiled for each instruction set: see each_instruction_set.h.

#include "registers.h"

#include "full_products.h"

#include "walk.h"

#include "dense.h"

#include "basis.h"
#include "coarse_products.h"
#include "encode.h"
#include "exact.h"

#include "candidates.h"

#include "pruned.h"
