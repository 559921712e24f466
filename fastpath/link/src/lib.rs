//! Sources and sinks of frames: TUN, UDP, memory, pcap replay, fault.
