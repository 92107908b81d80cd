"""What the launcher of the Flex Template runs; see docs/dataflow.md."""

from adtally.pipelines.template import main

main()
