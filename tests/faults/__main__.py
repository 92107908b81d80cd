from tests.faults.campaign import campaign

campaign()
