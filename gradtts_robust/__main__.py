"""`python -m gradtts_robust` is `gradtts-robust`."""
import sys

from gradtts_robust.cli import main

sys.exit(main())
