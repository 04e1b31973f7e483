#!/usr/bin/env bash
# Makes the two machines of two-machines.sh nodes of a small Slurm cluster, to try out slurm.sbatch:
#
#   SETUP=$PWD/docs/cluster/slurm-here.sh docs/cluster/two-machines.sh SHARED sbatch --wait slurm.sbatch …
#
# Needs Debian's packages slurmctld, slurmd, slurm-client and munge; /tmp is each machine's own.
set -euo pipefail

mkdir -p /tmp/etc-slurm /tmp/slurmctld /tmp/slurmd
echo CgroupPlugin=cgroup/v1 >/tmp/etc-slurm/cgroup.conf
cat >/tmp/etc-slurm/slurm.conf <<END
ClusterName=two
SlurmctldHost=head($HEAD)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=/tmp/munge.socket
StateSaveLocation=/tmp/slurmctld
SlurmdSpoolDir=/tmp/slurmd
SlurmctldPidFile=/tmp/slurmctld.pid
SlurmdPidFile=/tmp/slurmd.pid
SlurmctldLogFile=/tmp/slurmctld.log
SlurmdLogFile=/tmp/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
SlurmdTimeout=10
JobRequeue=1
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
NodeName=head NodeAddr=$HEAD CPUs=${CPUS:-1} RealMemory=4000
NodeName=worker NodeAddr=${HEAD%.*}.2 CPUs=${CPUS:-1} RealMemory=4000
PartitionName=all Nodes=head,worker Default=YES MaxTime=INFINITE State=UP
END
chmod 1777 /tmp
mount --bind /tmp/etc-slurm /etc/slurm

install -d -o munge -g munge -m 755 /tmp/munged
setpriv --reuid munge --regid munge --clear-groups munged --socket=/tmp/munge.socket --pid-file=/tmp/munged/pid \
    --log-file=/tmp/munged/log --seed-file=/tmp/munged/seed || { cat /tmp/munged/log; exit 1; }
if [ "$MACHINE" = head ]; then
    slurmctld -f /etc/slurm/slurm.conf
fi
slurmd -f /etc/slurm/slurm.conf || { cat /tmp/slurmd.log; exit 1; }
if [ "$MACHINE" = worker ]; then
    for _ in $(seq 30); do
        sinfo -h -t idle -o %D | grep -qx 2 && exit
        sleep 1
    done
    sinfo >&2
    exit 1
fi
